"""Masked text and MiniLM's own weights: the data hide what they say, the small model is the encoder that the package
has, and leading starts fit it."""

from __future__ import annotations

import dataclasses
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from experiments import jobs, measures, minilm, sources, starts
from experiments.jobs import Job
from experiments.tasks import MINILM, TASKS, Size, data_of, loss_of

try:
    version(minilm.PACKAGE)
except PackageNotFoundError:
    pytest.skip(f"the package {minilm.PACKAGE} is not installed (make test installs it)", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("minilm")  # the text is read and cut up once
SIZES = {"narrower and shallower": Size(1, 32), "narrower": Size(2, 32), "deeper and wider": Size(3, 96)}


def small(size: Size, seed: int = 0) -> minilm.Bert:
    torch.manual_seed(seed)
    model = minilm.Bert(*size)
    starts.randomise(model, fan_in=True)
    return model


def test_words_are_hidden_and_asked_for() -> None:
    data = data_of(minilm.Masked, "cpu")
    rows = data.order(3, 5)
    assert rows.equal(data.order(3, 5))
    assert not rows.equal(data.order(3, 6))
    tokens, labels = data.batch(rows[0])
    assert tokens.shape == (minilm.BATCH, minilm.CONTEXT)
    assert tokens[:, 0].eq(minilm.FIRST).all()
    assert tokens[:, -1].eq(minilm.LAST).all()
    masked = tokens == minilm.MASK
    assert masked.sum(1).eq(minilm.MASKED).all()
    original = tokens.masked_scatter(masked, labels)  # row by row, in the order of the text
    assert all(
        row[1:-1].equal(data.train[start : start + minilm.CONTEXT - 2])
        for row, start in zip(original, rows[0, :, 0], strict=True)
    )
    assert not data.held_out[1].eq(minilm.MASK).any()


def test_logits_are_of_the_masked_words_in_their_order() -> None:
    model = small(Size(1, 32))
    tokens, _ = data_of(minilm.Masked, "cpu").held_out
    with torch.no_grad():
        hidden = model.encoder(model.embeddings(tokens[:4]))
        every = hidden @ model.embeddings.word_embeddings.weight.T + model.cls.predictions.bias
        torch.testing.assert_close(model(tokens[:4]).flatten(0, 1), every[tokens[:4] == minilm.MASK])


def test_the_model_is_the_package_s_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    model = minilm.Bert(6, 384)
    model.load_state_dict(minilm.trained())
    tokens, _ = data_of(minilm.Masked, "cpu").held_out
    known = torch.tensor(minilm._words()[2])
    reference = transformers.BertModel.from_pretrained(minilm.find_minilm(), add_pooling_layer=False).eval()
    with torch.no_grad():
        wanted = reference(known[tokens[:2]]).last_hidden_state
        torch.testing.assert_close(model.encoder(model.embeddings(tokens[:2])), wanted, rtol=1e-4, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm.find_minilm())
    special = tokenizer.convert_ids_to_tokens(known[: len(minilm.SPECIAL)].tolist())
    assert tuple(special) == minilm.SPECIAL


def test_a_changed_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"sha256 is 53aa51172d142c89.*, expected 0000"):
        minilm.find_minilm()


def test_a_package_without_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "files", lambda package: [])
    with pytest.raises(FileNotFoundError, match=f"the package {minilm.PACKAGE} names no model.safetensors"):
        minilm.find_minilm()


def test_another_package_is_another_source(tmp_path: Path) -> None:
    other = dataclasses.replace(MINILM, begin_id="0" * 64)
    assert sources.path_of(other, tmp_path, False) != sources.path_of(MINILM, tmp_path, False)


def test_what_is_validated_on_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run of 32 words is in both, whichever modules are validated on."""
    train, held_out, _ = minilm._words()
    seen = {tuple(text[i : i + 32]) for text in train for i in range(len(text) - 31)}
    runs = [tuple(text[i : i + 32]) for text in held_out for i in range(len(text) - 31)]
    assert len(runs) > 10_000
    assert seen.isdisjoint(runs)
    texts = list(minilm.docstrings())
    monkeypatch.setattr(minilm, "docstrings", lambda: [*texts[9:], texts[0]])  # with a module and its copy in C apart
    train, held_out, _ = minilm._words.__wrapped__()
    quoted = {run for text in held_out for run in minilm.runs(text)}
    assert not any(run in quoted for text in train for run in minilm.runs(text))
    assert len(train) + len(held_out) < len(texts) + len(minilm.topics)


def test_leading_starts_take_over_what_the_source_knows() -> None:
    source, data = small(Size(2, 64)), data_of(minilm.Masked, "cpu")
    for size in SIZES.values():
        for name in jobs.LEAD:
            model = small(size, 1)
            if not starts.STARTS[name].fits(Size(2, 64), size):
                continue
            before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            made = starts.STARTS[name].make(source, model, 1, data)
            model.load_state_dict(made)
            assert loss_of(model, *(x[:8] for x in data.held_out)).isfinite()
            if name not in starts.RANDOM:
                changed = {key for key, tensor in before.items() if not made[key].equal(tensor)}
                matrices = {key for key, tensor in before.items() if tensor.dim() > 1}
                assert matrices <= changed, (name, size)


def test_selection_takes_whole_heads_and_every_norm() -> None:
    source = small(Size(2, 64))
    torch.nn.init.normal_(source.embeddings.LayerNorm.weight)
    make = starts.STARTS["selection"].make
    made = make(source, small(Size(1, 32), 1), 1, data_of(minilm.Masked, "cpu"))
    queries = "encoder.layer.0.attention.self.query.weight"  # of two heads the first, of channels every second
    assert made[queries].equal(source.state_dict()[queries][: minilm.HEAD, ::2])
    assert made["embeddings.LayerNorm.weight"].equal(source.embeddings.LayerNorm.weight[::2])


@pytest.mark.parametrize("name", ["aligned", "selection", "corner, first layers"])
def test_starts_of_the_source_s_own_size_are_the_source(name: str) -> None:
    source, model = small(Size(2, 64)), small(Size(2, 64), 1)
    with torch.no_grad():
        for tensor in source.state_dict().values():  # norms and biases that say something
            tensor += 0.05 * torch.randn_like(tensor)
    inputs, _ = data_of(minilm.Masked, "cpu").held_out
    with torch.no_grad():
        wanted = source(inputs[:4])
        model.load_state_dict(starts.STARTS[name].make(source, model, 1, data_of(minilm.Masked, "cpu")))
        torch.testing.assert_close(model(inputs[:4]), wanted, rtol=1e-4, atol=1e-4)


def test_fan_in_of_words_that_a_head_reads() -> None:
    words = small(Size(1, 64)).embeddings.word_embeddings.weight
    assert words.std().item() == pytest.approx(1 / 8, rel=0.02)


def test_a_job_and_a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is trained from the weights that the task begins with; a stack has the curves of its models."""
    begin = small(Size(2, 64)).state_dict()
    task = dataclasses.replace(
        MINILM, name="tiny", source=Size(2, 64), source_steps=0, targets=SIZES, steps=2, begin=lambda: begin
    )
    monkeypatch.setitem(TASKS, "tiny", task)
    sources.prepare(task, tmp_path, False, "cpu")
    for name, tensor in sources.load(task, tmp_path, False)[0].state_dict().items():
        assert tensor.equal(begin[name])
    pair = [Job("tiny", "narrower and shallower", "aligned", seed, 1e-3) for seed in (0, 1)]
    rows = jobs.run(pair, tmp_path, "cpu")
    assert [list(measures.curve_of(row)) for row in rows] == [[0, 2], [0, 2]]
    alone = measures.curve_of(jobs.run(pair[1:], tmp_path, "cpu")[0])
    assert alone == pytest.approx(measures.curve_of(rows[1]), abs=2e-4)


def test_only_leading_starts_are_planned() -> None:
    planned = {job.start for stage in jobs.SETS["full"] for job in stage(()) if job.task == "minilm"}
    assert planned == set(jobs.LEAD)
    first = next(job for job in jobs.SETS["proof"][0](()) if job.task == "minilm")
    assert (first.relation, first.lr) == ("narrower and shallower", MINILM.rates[0])
