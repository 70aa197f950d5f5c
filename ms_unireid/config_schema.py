"""The sections of a configuration as frozen dataclasses; their defaults are the paper's experiment."""

from dataclasses import dataclass, field
from typing import Any, Literal


def resumable(default: Any) -> Any:
    """Declare a field that may differ when a run is resumed, because it changes no number of the run."""
    return field(default=default, metadata={"resumable": True})


# Tokens of CLIP's vocabulary.
VOCABULARY_SIZE = 49408
# Tokens of a caption, start and end included: as CLIP reads them, and as a stretched position table does at most.
CONTEXT_LENGTH, STRETCHED_LENGTH = 77, 248


@dataclass(frozen=True)
class TowerSize:
    """Width, depth and heads of one transformer tower."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Architecture:
    """Sizes of a CLIP dual encoder; the image size and stride come from the config."""

    vision: TowerSize  # of the tower that photos and sketches share
    text: TowerSize
    patch_size: int  # side of a square image patch, in pixels
    embed_dim: int  # width D of the joint feature space
    vocabulary_size: int = VOCABULARY_SIZE  # rows of the token table; fewer split rare words, see `Tokenizer`

    def __str__(self) -> str:
        towers = (f"{tower.layers} x {tower.width} ({tower.heads} heads)" for tower in (self.vision, self.text))
        return f"{' / '.join(towers)}, patch {self.patch_size}, embed {self.embed_dim}"


ARCHITECTURES = {
    "ViT-B/16": Architecture(TowerSize(768, 12, 12), TowerSize(512, 12, 8), patch_size=16, embed_dim=512),
    "ViT-B/32": Architecture(TowerSize(768, 12, 12), TowerSize(512, 12, 8), patch_size=32, embed_dim=512),
    "ViT-L/14": Architecture(TowerSize(1024, 24, 16), TowerSize(768, 12, 12), patch_size=14, embed_dim=768),
    # Not a CLIP model: small enough to train from scratch on a laptop or in a test.
    "small": Architecture(TowerSize(128, 4, 4), TowerSize(128, 4, 4), patch_size=8, embed_dim=128),
    "tiny": Architecture(TowerSize(64, 2, 2), TowerSize(48, 2, 3), patch_size=8, embed_dim=32),
}


TASKS = ("text", "sketch", "fusion")
# Evaluation protocols by name; see ms_unireid.evaluation.protocols.
GALLERY_RULES = ("exclude_source_photo", "full_gallery", "camera_aware")
# The precisions of each encoder, as `RuntimeConfig` describes them.
PRECISIONS = {"mindspore": ("fp32", "mixed", "bf16"), "openvino": ("fp32", "bf16"), "onnxruntime": ("fp32", "int8")}
PROTOCOLS = (*GALLERY_RULES, "multi_query", "missing_modality", "ten_trials", "orbench")


@dataclass(frozen=True)
class ModelConfig:
    """The dual encoder.

    Attributes:
        architecture: A registered name, or the sizes themselves: `{vision: {width, layers, heads}, text: {...},
            patch_size, embed_dim, vocabulary_size}`.
        image_size: Height and width in pixels.
        stride: Distance between patches in pixels; null means the patch size, less makes patches overlap.
        context_length: Length of a caption in tokens, start and end included; above 77 with, and only with,
            `data.long_captions: stretch`.
        temperature: Initial tau of Eq. 1-2; the logit scale starts at ln(1 / tau).
        learnable_temperature: Train the logit scale (the authors' code) or keep it fixed (the paper).
        activation: `quick_gelu` (OpenAI's CLIP and the authors' code) or `gelu` (most models of open_clip).
        pretrained: A file of weights to start from: a checkpoint of ms_unireid or CLIP, or another file that
            `tools/convert_checkpoint.py` reads. Its position tables are resized; optimizer state is left out.
        pretrained_logit_scale: Take the file's logit scale as well; the authors start from `temperature`.
    """

    architecture: str | Architecture = "ViT-B/16"
    image_size: tuple[int, int] = (384, 128)
    stride: int | None = None
    context_length: int = CONTEXT_LENGTH
    temperature: float = 0.07
    learnable_temperature: bool = True
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    pretrained: str | None = None
    pretrained_logit_scale: bool = False

    @property
    def sizes(self) -> Architecture:
        """The sizes of the towers."""
        return ARCHITECTURES[self.architecture] if isinstance(self.architecture, str) else self.architecture

    @property
    def patch_stride(self) -> int:
        """The distance between patches in pixels: `stride`, or the patch size if that is null."""
        return self.sizes.patch_size if self.stride is None else self.stride


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation; probabilities and fractions 0-1, padding in pixels.

    Attributes:
        flip: Probability of a horizontal flip.
        pad: Black border added on every side before a random crop of the original size.
        erase: Probability of random erasing (2-40 % of the area, filled with the CLIP mean after normalisation).
        share_geometry: Give photo and sketch the same flip and crop; the authors draw them independently. Only with
            `pad: 0`: a border common to both identifies the pair without the person.
        drop_clauses: Probability that a clause of a caption is left out, anew in every epoch; one always stays. The
            authors drop none.
    """

    flip: float = 0.5
    pad: int = 10
    erase: float = 0.5
    share_geometry: bool = False
    drop_clauses: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """The data set and how batches are drawn from it.

    Attributes:
        name: `cuhk_pedes`, `icfg_pedes`, `rstp_reid` or `orbench`; `pairs`, a collection of your own; `pku_sketch` or
            `market_sketch` to evaluate on.
        root: The folder that holds the data set's folder, or that folder itself; the latter for `pairs`.
        batch_size: Pairs per step, all processes together.
        sampler: `shuffle` (the authors' code: every (photo, sketch, caption) once an epoch),
            `distinct_identities` (the paper: a batch of different persons) or `identity` (K pairs per person).
        instances: K of the `identity` sampler.
        drop_last: Leave out the last, smaller batch of an epoch; the authors keep it.
        allow_identity_gaps: Accept training identities that are not consecutive.
        allow_partial: Accept a part of PKU-Sketch.
        long_captions: What becomes of a caption of more tokens than `model.context_length`: `cut`, the authors' rule;
            `split` at its sentences, whose features are averaged, and an epoch of training draws one of them; `stretch`
            reads more, by a table of positions that is stretched, and cuts what is longer still.
        captions: A file of captions for `pku_sketch` or `market_sketch`, which have none of their own.
        trials: A file of the ten trials of `pku_sketch`; null draws them by a fixed rule.
        annotations: The file of `pairs`, JSON, JSONL or CSV; null takes `pairs.*` in `root`, or the only one.
        split_shares: Shares 0-1 of the persons of `pairs` that train, val and test get if its file has no splits.
        split_seed: Draws these persons.
        modalities: Pictures that are read beside the photos, such as sketch, pencil or infrared.
        draw_pictures: When one of a person's pictures of a modality is drawn for a photo, where they belong to persons:
            in each `epoch`, or `once` before the first, as ORBench's authors do.
        augment: Training augmentation.
    """

    name: Literal["cuhk_pedes", "icfg_pedes", "rstp_reid", "orbench", "pairs", "pku_sketch", "market_sketch"] = (
        "cuhk_pedes"
    )
    root: str = resumable("data")
    batch_size: int = 64
    sampler: Literal["shuffle", "distinct_identities", "identity"] = "shuffle"
    instances: int = 4
    drop_last: bool = False
    allow_identity_gaps: bool = False
    allow_partial: bool = False
    long_captions: Literal["cut", "split", "stretch"] = "cut"
    captions: str | None = resumable(None)
    trials: str | None = resumable(None)
    annotations: str | None = resumable(None)
    split_shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_seed: int = 0
    modalities: tuple[str, ...] = ("sketch",)
    draw_pictures: Literal["epoch", "once"] = "epoch"
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The losses to train with; each row of Table 2 is one choice.

    Attributes:
        tasks: What is trained (Eq. 3): text, a picture modality of `data.modalities`, or a sum of several in any order,
            such as text+sketch, which the paper calls fusion.
        positives: What a query should find in the batch: `pair`, its own photo (the paper, Eq. 1-2); `identity`, all
            photos of its person equally (Khosla et al., NeurIPS 2020); `distribution`, the same by the divergence that
            IRRA minimises, SDM (Jiang and Ye, CVPR 2023). The last two want batches with several pairs of a person.
        dynamic: Task-aware weights on the two tasks of `modulated` (Eq. 4-9).
        modulated: The two tasks; the paper's are text and sketch.
        alpha: alpha_t of Eq. 8-9.
        gamma: Exponent of Eq. 8-9.
        detach_weights: Stop the gradient through the weights; the authors let it flow.
        interaction_weight: Factor of the cross-modality interaction L_c (Eq. 10); 0 leaves it out.
        aligned: The task that teaches, and the one that is aligned with it; the paper's are text and sketch.
    """

    tasks: tuple[str, ...] = TASKS
    positives: Literal["pair", "identity", "distribution"] = "pair"
    dynamic: bool = True
    modulated: tuple[str, str] = ("text", "sketch")
    alpha: float = 1.0
    gamma: float = 3.5
    detach_weights: bool = False
    interaction_weight: float = 0.5
    aligned: tuple[str, str] = ("text", "sketch")


@dataclass(frozen=True)
class TrainConfig:
    """Optimizer, schedule and run.

    Attributes:
        output: The run folder.
        epochs: Passes over the training pairs.
        seed: Seeds the initial weights, the sampler and the augmentation.
        learning_rate: Base rate, reached after the warm-up.
        final_learning_rate: The rate that the cosine approaches, for weights and biases alike.
        warmup_epochs: Epochs of linear warm-up; the rate changes once an epoch.
        warmup_factor: The first epoch's share of the base rate, or the first step's with `warmup_steps`.
        warmup_steps: Steps of linear warm-up, in place of `warmup_epochs`: the rate then changes at every step, which
            suits short runs. null changes it once an epoch, as the authors do.
        bias_lr_factor: Multiplies the base rate of every bias.
        weight_decay: L2 term added to the gradient, not applied to biases.
        bias_weight_decay: The same for biases.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        eps: Adam's epsilon, outside the bias-corrected root as in PyTorch.
        accumulation_steps: Parts that a batch is split into. A pair is contrasted with those of its part only; the
            gradients of the parts are averaged before the update.
        cache_chunk: Pairs encoded at once, so that a batch needs the memory of a chunk: all features are computed
            without gradients, then the gradient of the whole batch's loss is taken back chunk by chunk. The step
            equals a plain one. null encodes the batch at once.
        clip_norm: Largest global norm of a step's gradient; null does not clip.
        ema_decay: Decay per step of a moving average of the weights. The average is evaluated and saved in the best
            checkpoints in place of the weights; null keeps no average.
        global_batch_objective: With several processes, contrast every pair with those of all processes, as one
            process with the whole batch would; false contrasts it with those of its own process.
        scale_learning_rate: Multiply the rate by batch_size / 64 (`linear`) or its root (`sqrt`); the authors do not.
        eval_every: Epochs between evaluations; the last epoch is always evaluated.
        checkpoint_every: Steps between saves of last.ckpt within an epoch; null saves at its end only.
        profile_steps: The first and last step, counted over the run, that MindSpore's profiler records in the first
            process; null records none.
        log_every: Steps between lines of log.jsonl.
        tensorboard: Write event files for TensorBoard as well.
        resume: A run folder to resume; `auto` resumes train.output if it holds a run, and starts a run otherwise.
        allow_changes: Keys that may differ from the interrupted run's although they change its numbers.
        seeds: Train once with each of these seeds, and report mean and standard deviation.
    """

    output: str = resumable("runs/unireid")
    epochs: int = 60
    seed: int = 1
    learning_rate: float = 1e-5
    final_learning_rate: float = 0.0
    warmup_epochs: int = 5
    warmup_factor: float = 0.1
    warmup_steps: int | None = None
    bias_lr_factor: float = 2.0
    weight_decay: float = 4e-5
    bias_weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-3
    accumulation_steps: int = 1
    cache_chunk: int | None = None
    clip_norm: float | None = None
    ema_decay: float | None = None
    global_batch_objective: bool = False
    scale_learning_rate: Literal["none", "linear", "sqrt"] = "none"
    eval_every: int = 1
    checkpoint_every: int | None = resumable(None)
    profile_steps: tuple[int, int] | None = resumable(None)
    log_every: int = resumable(20)
    tensorboard: bool = resumable(False)
    resume: str | None = resumable(None)
    allow_changes: tuple[str, ...] = resumable(())
    seeds: tuple[int, ...] | None = resumable(None)


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation during and after training.

    Attributes:
        tasks: Tasks to report; null: the paper's that the data have queries for, and each further modality alone and
            all together; [all]: every combination.
        splits: Splits to report; null means val and test, or those of the two that the data set has.
        selection_split: Which split chooses the best checkpoints; `auto` is val where one exists, else test.
            The authors choose on test.
        selection_text_protocol: Which text R1 chooses `best_text` and enters the average;
            the authors take the full gallery.
        multi_query_photos: With protocol `multi_query`, if captions and sketches belong to photos: number of photos of
            each person whose captions or sketches make up the query.
        missing_shares: With protocol `missing_modality`: shares 0-1 of the queries that lose text or sketch.
        batch_size: Pictures or captions encoded at once.
    """

    splits: tuple[Literal["train", "val", "test"], ...] | None = resumable(None)
    tasks: tuple[str, ...] | None = None
    selection_split: Literal["auto", "train", "val", "test"] = "auto"
    selection_text_protocol: Literal["full_gallery", "exclude_source_photo"] = "full_gallery"
    multi_query_photos: int = resumable(2)
    missing_shares: tuple[float, ...] = resumable((0.0, 0.25, 0.5, 0.75, 1.0))
    batch_size: int = 64


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how the computation runs.

    Attributes:
        device: `auto` takes the best device MindSpore finds.
        device_id: Index of the Ascend or GPU device.
        graph_mode: Compile the training step and the encoders; false runs PyNative.
        jit_level: MindSpore's level of compilation: `O0` launches operation by operation; `O1` fuses operations where
            the device has fusions, which a CPU has not; `O2` gives whole graphs to Ascend's graph engine and exists
            there only. `auto` leaves the choice to MindSpore. Levels may differ in rounding.
        encoder: Who encodes for index, search and evaluation: MindSpore, or on a CPU OpenVINO or onnxruntime, from an
            export of the checkpoint that is made once. Training takes MindSpore.
        precision: `fp32`; `mixed`: matrix products and attention in float16, with a loss scale; `bf16`: the same in
            bfloat16, without one, on Ascend, GPU and processors with AMX or AVX512-BF16; `int8` with onnxruntime alone.
            Weights, their update, normalisations and everything after the features stay float32.
        loss_scale: With mixed precision: `dynamic` doubles the scale after `loss_scale_window` steps without an
            overflow and halves it at an overflow; `static` keeps it.
        initial_loss_scale: Scale of the first step.
        loss_scale_window: Steps without an overflow before the scale doubles.
        max_overflows: Overflows in a row that stop the run; each one skips its step.
        recompute: Compute the blocks' activations again in the backward pass instead of keeping them.
        fused_ops: Form of the towers' operations. `plain` takes MindSpore's gradients; `fast` has hand-written
            gradients, equal up to rounding, and needs less memory and time on a CPU; `ascend`, on Ascend alone, has
            that device's own kernels. `auto` is fast on a CPU, ascend on Ascend and plain on GPU. On Ascend and GPU a
            form is compared with plain float32 before it is used, and replaced by plain if it differs. Exported models
            are plain.
        deterministic: Make two runs with the same seed identical on Ascend and GPU too; on a CPU they are anyway.
        workers: Threads that read and augment batches.
        prefetch: Batches kept ready.
        decoded_cache: A folder for every picture of a training run, decoded and resized, so that only the first epoch
            decodes; the pixels are the same. Runs may share it. null decodes a picture whenever it is needed.
    """

    device: Literal["auto", "Ascend", "GPU", "CPU"] = resumable("auto")
    device_id: int = resumable(0)
    graph_mode: bool = resumable(True)
    jit_level: Literal["auto", "O0", "O1", "O2"] = "auto"
    encoder: Literal["mindspore", "openvino", "onnxruntime"] = resumable("mindspore")
    precision: Literal["fp32", "mixed", "bf16", "int8"] = "fp32"
    loss_scale: Literal["dynamic", "static"] = "dynamic"
    initial_loss_scale: float = 65536.0
    loss_scale_window: int = 2000
    max_overflows: int = resumable(20)
    recompute: bool = False
    fused_ops: Literal["auto", "plain", "fast", "ascend"] = "auto"
    deterministic: bool = False
    workers: int = resumable(2)
    prefetch: int = resumable(4)
    decoded_cache: str | None = resumable(None)


@dataclass(frozen=True)
class Config:
    """The whole experiment, one attribute for each section."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
