"""Two processes under msrun, started once for all tests, against one process and numpy."""

from pathlib import Path

import numpy as np
import pytest
from distributed.examples import EVALUATIONS, ROWS, ContrastGradient, evaluate, params_of, rows_of, weights_of
from distributed.launcher import launch
from mindspore import Tensor

from ms_unireid.apps.synthetic.dataset import SyntheticConfig, generate_tri_dataset

RANKS = (0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine photos of three people, with two captions each."""
    root = tmp_path_factory.mktemp("data")
    generate_tri_dataset(root, SyntheticConfig(1, 0, 3, photos_per_identity=3, captions_per_photo=2))
    return root


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """What each of the two processes computed."""
    folder = tmp_path_factory.mktemp("together")
    launched = launch(Path(__file__).with_name("together.py"), data, folder, folder=folder / "logs")
    assert launched.returncode == 0, launched.explain()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in RANKS]


def assert_in_both(found, key, expected):
    for rank in RANKS:
        np.testing.assert_array_equal(found[rank][key], expected)


def test_each_process_knows_its_rank(found):
    assert [own["processes"].tolist() for own in found] == [[0, 2], [1, 2]]


def test_rows_are_joined_in_rank_order(found, mode):
    assert_in_both(found, f"{mode}/joined", np.concatenate([rows_of(rank) for rank in RANKS]))


def test_a_block_gets_the_gradients_of_all_processes_losses(found, mode):
    total = weights_of(0) + weights_of(1)
    for rank in RANKS:
        block = total[rank * ROWS : (rank + 1) * ROWS]
        np.testing.assert_array_equal(found[rank][f"{mode}/gradient_of_rows"], block)


def test_mean_gradients_of_the_global_loss_are_those_of_one_process(found, mode):
    loss, grads = ContrastGradient()(Tensor(np.concatenate([rows_of(rank) for rank in RANKS])))
    for rank in RANKS:
        np.testing.assert_allclose(found[rank][f"{mode}/loss"], loss.asnumpy(), rtol=1e-6)
        for i, grad in enumerate(grads):
            np.testing.assert_allclose(found[rank][f"{mode}/contrast_{i}"], grad.asnumpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(*(own[f"{mode}/contrast_{i}"] for own in found))


def test_gradients_are_averaged(found, mode):
    for i, (a, b) in enumerate(zip(params_of(0), params_of(1), strict=True)):
        assert_in_both(found, f"{mode}/mean_{i}", (a.asnumpy() + b.asnumpy()) / np.float32(2))
    assert_in_both(found, f"{mode}/mean_{len(params_of(0))}", np.float32([np.nan, 1]))


def test_the_first_process_gives_its_parameters(found, mode):
    for i, param in enumerate(params_of(0)):
        assert_in_both(found, f"{mode}/broadcast_{i}", param.asnumpy())


def test_gathered_rows_keep_their_bits(found, mode):
    rows = np.array([[-0.0, np.nan, -np.inf, 1e-42, rank] for rank in RANKS], np.float32)
    for own in found:
        assert own[f"{mode}/rows"].tobytes() == rows.tobytes()
    assert_in_both(found, f"{mode}/integers", [0, 1, 10, 11])


def test_one_process_decides_for_all(found, mode):
    assert_in_both(found, f"{mode}/flags", [False, True, True, True])


@pytest.mark.parametrize(("mode", "batch_size"), EVALUATIONS, indirect=["mode"])
def test_shared_evaluation_has_the_features_of_one_process(found, data, mode, batch_size):
    alone = evaluate(data, batch_size)
    assert alone["photo"].shape[0] == alone["sketch"].shape[0] == 9
    assert alone["text"].shape[0] == 18
    for name in ("photo", "sketch", "text"):
        assert_in_both(found, f"{batch_size}/{name}", alone[name])


@pytest.mark.parametrize("batch_size", [size for _, size in EVALUATIONS])
def test_progress_is_reported_equally_often(found, batch_size):
    first, second = (own[f"{batch_size}/progress"] for own in found)
    np.testing.assert_array_equal(first, second)
    captions, pictures = (-(-n // (2 * batch_size)) for n in (18, 9))
    expected = [[i + 1, n] for n in (captions, pictures, pictures) for i in range(n)]
    np.testing.assert_array_equal(first, expected)
