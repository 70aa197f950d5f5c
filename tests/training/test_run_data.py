"""Batches of a run: as many as are counted, in every process and every epoch. Costs three seconds."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ms_unireid.config import load_config
from ms_unireid.data.tokenizer import Tokenizer
from ms_unireid.errors import DataError
from ms_unireid.runtime import Processes
from ms_unireid.training.run_data import RunData


@pytest.fixture
def config(data):
    return load_config(
        None, [f"data.root={data}", "data.batch_size=10", "model.image_size=[32,16]", "data.augment.pad=0"]
    )


# 72 pairs in batches of ten: the last one has two, too few for five processes, and one each for two.
@pytest.mark.parametrize(("size", "together", "count"), [(1, False, 8), (2, False, 7), (2, True, 8), (5, True, 7)])
def test_an_epoch_has_the_batches_that_are_counted(config, size, together, count):
    config = replace(config, train=replace(config.train, global_batch_objective=together))
    for rank in range(size):
        run_data = RunData(config, Processes(rank, size))
        assert run_data.steps(1) == count == len(list(run_data.epoch(1)))
        assert len(list(run_data.epoch(2, done=3))) == run_data.steps(2) - 3
    assert len(run_data.describe_batch(1, 1)) == 10


def test_persons_come_last_if_they_are_needed(config):
    assert {len(batch) for batch in RunData(config).epoch(1)} == {3}
    config = replace(config, objective=replace(config.objective, positives="identity"))
    for rank in (0, 1):
        run_data = RunData(config, Processes(rank, 2))
        people = sorted({pair.person_id for pair in run_data._pairs})
        for rows, (images, *_, persons) in zip(run_data._shard(1), run_data.epoch(1), strict=True):
            assert persons.dtype == np.int32 and persons.shape == images.shape[:1]
            assert [people[person] for person in persons] == [run_data._pairs[row].person_id for row in rows]


def test_batches_tell_what_pairs_lack(data, config, tmp_path):
    """Every third photo has no sketch, and the first one nothing that a task asks with."""
    folder = data / "CUHK-PEDES"
    rows = json.loads((folder / "reid_raw.json").read_text())
    for place, row in enumerate(rows):
        row["sketch"] = f"imgs-sketch2/{row['file_path']}" if place % 3 else None
    rows[0]["captions"] = []
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    section = replace(config.data, name="pairs", root=str(folder), annotations=str(tmp_path / "pairs.json"))
    config = replace(config, data=section)
    whole = RunData(config)
    assert whole.notes()[1:] == ["of 71 training pairs, tasks have text 70, sketch 48, fusion 48"]
    assert len(whole._pairs) == 70 and list(whole.extras) == ["present"]
    for size in (1, 2):
        for rank in range(size):
            run_data = RunData(config, Processes(rank, size))
            for chosen, (*_, present) in zip(run_data._shard(2)[3:], run_data.epoch(2, done=3), strict=True):
                drawn = [bool(*run_data._pairs[row].pictures) for row in chosen]
                np.testing.assert_array_equal(present, np.array([[1, one, one] for one in drawn], np.float32))
    objective = replace(config.objective, tasks=("text",), dynamic=False, interaction_weight=0, positives="identity")
    assert list(RunData(replace(config, objective=objective)).extras) == ["persons"]
    assert list(RunData(replace(config, data=replace(section, draw_pictures="once"))).extras) == ["present"]


def test_captions_change_with_the_epoch_only(config):
    """Without the first batches, and in one of two processes, an epoch has the captions that it has as a whole."""
    run_data = RunData(config)
    plain = {epoch: [batch[2] for batch in run_data.epoch(epoch)] for epoch in (1, 2)}
    for rows, ids in zip(run_data.batches(2), plain[2], strict=True):
        np.testing.assert_array_equal(ids, Tokenizer(77)([run_data._pairs[row].caption for row in rows]))
    augment = replace(config.data.augment, drop_clauses=0.5)
    config = replace(config, data=replace(config.data, augment=augment))
    found = {epoch: [batch[2] for batch in RunData(config).epoch(epoch)] for epoch in (1, 2)}
    for epoch, batches in found.items():
        cut = np.concatenate([ids > 0 for ids in batches]).sum(1) < np.concatenate(plain[epoch]).astype(bool).sum(1)
        assert 0.5 < cut.mean() < 1
        for resumed, whole in zip(RunData(config).epoch(epoch, done=3), batches[3:], strict=True):
            np.testing.assert_array_equal(resumed[2], whole)
        halves = [[batch[2] for batch in RunData(config, Processes(rank, 2)).epoch(epoch)] for rank in (0, 1)]
        for whole, *parts in zip(batches[:7], *halves, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = [np.argsort(np.concatenate(RunData(config).batches(epoch))) for epoch in (1, 2)]
    first, second = (np.concatenate(found[epoch])[order[epoch - 1]] for epoch in (1, 2))
    assert (first != second).any(1).mean() > 0.5


def test_a_piece_of_a_long_caption_is_drawn_in_each_epoch(config):
    """The same after a resume and in each of two processes; other captions stay."""
    config = replace(config, model=replace(config.model, context_length=12))
    cut, config = config, replace(config, data=replace(config.data, long_captions="split"))
    pairs, tokenizer = RunData(config)._pairs, Tokenizer(12, split=True)
    pieces = tokenizer.pieces([pair.caption for pair in pairs])
    assert pieces.long.mean() > 0.5
    found = {epoch: [batch[2] for batch in RunData(config).epoch(epoch)] for epoch in (1, 2)}
    by_pair = {}
    for epoch, batches in found.items():
        for rows, ids in zip(RunData(config).batches(epoch), batches, strict=True):
            for row, one in zip(rows, ids.tolist(), strict=True):
                assert one in pieces.token_ids[pieces.captions == row].tolist()
                by_pair.setdefault(row, []).append(one)
        for resumed, whole in zip(RunData(config).epoch(epoch, done=3), batches[3:], strict=True):
            np.testing.assert_array_equal(resumed[2], whole)
        halves = [[batch[2] for batch in RunData(config, Processes(rank, 2)).epoch(epoch)] for rank in (0, 1)]
        for whole, *parts in zip(batches[:7], *halves, strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert 0.3 < np.mean([first != second for first, second in by_pair.values()]) < 0.9
    (told,) = RunData(config).notes()
    assert told.startswith(
        f"{pieces.long.sum()} of 72 training captions have more than 12 tokens: an epoch trains with"
    )
    assert RunData(cut).notes()[0].endswith("tokens: they are cut, see data.long_captions")
    assert RunData(replace(cut, model=replace(cut.model, context_length=77))).notes() == []


def test_a_split_without_a_batch_for_all_processes(config):
    config = replace(config, data=replace(config.data, batch_size=80))
    assert RunData(config, Processes(0, 20)).steps(1) == 1
    with pytest.raises(DataError, match=r"72 pairs .* 40 processes"):
        RunData(config, Processes(0, 40))


def test_the_digest_is_of_the_pairs_wherever_they_are(config, data, tmp_path):
    moved = shutil.copytree(data, tmp_path / "moved")
    elsewhere = replace(config, data=replace(config.data, root=str(moved)))
    digest = RunData(config).digest
    assert RunData(elsewhere).digest == digest
    file = moved / "CUHK-PEDES" / "reid_raw.json"
    entries = json.loads(file.read_text(encoding="utf-8"))
    next(entry for entry in entries if entry["split"] == "train")["captions"][0] = "another person"
    file.write_text(json.dumps(entries), encoding="utf-8")
    assert RunData(elsewhere).digest != digest
