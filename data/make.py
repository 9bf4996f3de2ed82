"""Train the example checkpoints again and write the manifest that describes them.

Run ``python data/make.py`` in the repository: four small networks on scikit-learn's digits,
an MLP with a narrow layer and a CNN, each by backpropagation and by DFA.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from alignlab import datasets
from alignlab.specs import build_loss, build_model, parse_rule
from alignlab.training import Recipe, save_checkpoint, train

NETWORKS = {
    "mlp": ("alignlab:mlp", {"in_features": 64, "widths": [96, 6, 48], "activation": "tanh"}),
    "cnn": ("alignlab:cnn", {"image_size": 8, "channels": [16, 32], "widths": [64]}),
}
RULES = {"bp": "bp", "dfa": "dfa(distribution=normal, seed=1)"}
RATES = {("mlp", "bp"): 0.1, ("mlp", "dfa"): 0.1, ("cnn", "bp"): 0.05, ("cnn", "dfa"): 0.05}
EPOCHS = 60


def main() -> None:
    """Train, save and describe all four."""
    folder = Path(__file__).parent
    data = datasets.load("digits", split="train", samples=None)
    loss = build_loss("cross-entropy")
    entries = []
    for network, (spec, arguments) in NETWORKS.items():
        for name, text in RULES.items():
            torch.manual_seed(0)
            model = build_model(spec, arguments)
            done = train(
                model,
                loss,
                x=data.x,
                y=data.y,
                rule=parse_rule(text),
                recipe=Recipe(
                    epochs=EPOCHS,
                    optimizer_options={"lr": RATES[network, name], "momentum": 0.9},
                ),
            )
            path = folder / f"digits_{network}_{name}.pt"
            save_checkpoint(path, model, done, data=data.name, data_hash=data.hash, init_seed=0)
            entries.append(
                {
                    "file": path.name,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "model": spec,
                    "model_arguments": arguments,
                    "data": "digits",
                    "rule": done.rule.name,
                    "rule_spec": done.rule.label,
                    "seeds": {"init": 0, "order": 0, "feedback": getattr(done.rule, "seed", 0)},
                    "command": "python data/make.py",
                }
            )
            print(f"{path.name}: training loss {done.losses[-1]:.4f}")  # noqa: T201
    (folder / "manifest.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
