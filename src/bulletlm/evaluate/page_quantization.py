"""The sections of report.html about quantization: QAT, the types of tensors, and the error of each matrix."""

import math
from collections.abc import Callable
from typing import Literal

from bulletlm.evaluate.formatting import percent, percent_change, small
from bulletlm.evaluate.markup import Html, html_table, join, tag
from bulletlm.evaluate.report_types import Report, TensorRow
from bulletlm.evaluate.words import Words


def _parts(say: Words) -> dict[str, str]:
    return {
        "attention.q_proj": say("query"),
        "attention.k_proj": say("key"),
        "attention.v_proj": say("value"),
        "attention.o_proj": say("output"),
        "mlp.gate_proj": say("gate"),
        "mlp.up_proj": say("up"),
        "mlp.down_proj": say("down"),
    }


def fix_section(report: Report, say: Words) -> Html:
    """What quant.auto_fix tried."""
    trail = report["auto_fix"]
    if not trail:
        return Html()
    rows = [
        [
            say.finished(step["action"]),
            percent_change(step["perplexity_change"]),
            small(step["kl"]),
            say.size(step["bytes"]),
            say("kept") if step["kept"] else say("undone"),
            say("yes") if step["holds"] else say("no"),
        ]
        for step in trail
    ]
    head = [say("Step"), say("perplexity"), say("KL divergence"), say("size"), say("result"), say("limits hold")]
    return tag("h3", say("Steps of auto_fix")) + html_table(head, rows)


def qat_section(report: Report, say: Words) -> Html:
    """How quantization-aware training (docs/quantization.md) changed the KL divergence from FP32."""
    facts = (report["quantised"] or {}).get("qat")
    if facts is None:
        return Html()
    names = {"start": say("before QAT"), "raw": say("after QAT"), "ema": say("after QAT, averaged")}
    rows = [
        [name + (f" ({say('this file')})" if key == facts["chosen"] else ""), small(facts["kl"][key])]
        for key, name in names.items()
        if key in facts["kl"]
    ]
    text = say(
        "In {steps} steps on {tokens} tokens the 4-bit model was trained to predict as the FP32 model does (quantization-aware training, "
        "QAT). The file has the weights with the lowest divergence on the validation text.",
        steps=f"{facts['steps']:,}",
        tokens=say.count(facts["tokens"]),
    )
    if not facts["steps"]:
        text = say(
            "Quantization-aware training (QAT) was left out, because the 4-bit model differs from the FP32 model by less than the "
            "validation text can show."
        )
    return tag("p", text) + html_table([say("Weights"), say("KL divergence, nats per token")], rows)


def tensors_section(report: Report, say: Words) -> Html:
    tensors = [tensor for tensor in report["tensors"] if tensor["type"] != "F32"]
    if not tensors:
        return Html()
    maps = [
        _map(
            say("Effect of each matrix alone"),
            say(
                "The KL divergence from FP32 if only this matrix is quantized, in thousandths of a nat per token. In the whole file the "
                "effect is smaller, because the calibration of later matrices compensates for a part of it."
            ),
            _values(tensors, "kl"),
            lambda cost: f"{1000 * cost:.3f}" if cost < 0.01 else f"{1000 * cost:.1f}",
            say,
            report["sensitivity"],
        ),
        _map(
            say("Error of the outputs"),
            say(
                "Mean square error of the outputs of each matrix on the calibration text, with all earlier matrices quantized too, as a "
                "share of their mean square. The matrices output and down also correct the error of the hidden state up to them."
            ),
            _values(tensors, "output_error"),
            lambda share: percent(share, 2),
            say,
        ),
        _map(
            say("Error of the weights"),
            say(
                "Root mean square error of the weights, relative to their root mean square. Calibration can increase it, because it "
                "minimizes the error of the outputs instead."
            ),
            _values(tensors, "relative_rmse"),
            lambda share: percent(share, 1),
            say,
        ),
    ]
    rows = []
    for kind in dict.fromkeys(tensor["type"] for tensor in report["tensors"]):
        same = [tensor for tensor in report["tensors"] if tensor["type"] == kind]
        weights, stored = sum(t["weights"] for t in same), sum(t["bytes"] for t in same)
        error = math.sqrt(sum(t["relative_rmse"] ** 2 for t in same) / len(same))
        rows.append([kind, f"{len(same):,}", f"{weights:,}", say.size(stored), f"{8 * stored / weights:.2f}", percent(error, 2)])
    table = html_table([say("Type"), say("tensors"), say("weights"), say("size"), say("bits per weight"), say("mean error")], rows)
    return table + join(maps)


def _values(tensors: list[TensorRow], key: Literal["kl", "output_error", "relative_rmse"]) -> dict[str, float]:
    """Name -> value of every tensor for which `key` was measured."""
    return {tensor["name"]: value for tensor in tensors if (value := tensor[key]) is not None}


def _map(
    title: str, text: str, values: dict[str, float], form: Callable[[float], str], say: Words, whole: dict[str, float] | None = None
) -> Html:
    """A table of one value per matrix with a row for each layer; higher values have a darker background.

    `whole` adds a column with a value for all matrices of a layer together.
    """
    if not values:
        return Html()
    most = max(values.values()) or 1.0

    def cell(value: float | None) -> Html:
        if value is None:
            return tag("td", "–")
        # The square root makes differences between small values visible.
        return tag("td", form(value), cls="heat", style=f"--heat:{100 * math.sqrt(max(value, 0) / most):.0f}%")

    names = _parts(say)
    by_layer: dict[str, dict[str, float]] = {}
    outside = []
    for name, value in values.items():
        if name.startswith("layers."):
            _, number, *part, _ = name.split(".")
            by_layer.setdefault(number, {})[".".join(part)] = value
        else:
            label = say("embedding") if name.startswith("token_embedding") else say("output")
            outside.append(f"{label} {form(value)}")
    parts = list(dict.fromkeys(part for found in by_layer.values() for part in found))
    head = ["", *(names.get(part, part) for part in parts), *([say("whole layer")] if whole else [])]
    rows = []
    for number, found in by_layer.items():
        cells = [cell(found.get(part)) for part in parts]
        if whole:
            cost = whole.get(f"layers.{number}")
            cells.append(tag("td", "–" if cost is None else form(cost)))
        rows.append(tag("tr", tag("th", say.layer(f"layers.{number}"), scope="row") + join(cells)))
    top = join(tag("th", name, scope="col") for name in head)
    table = tag("table", tag("thead", tag("tr", top)) + tag("tbody", join(rows)), cls="map")
    note = tag("p", say("Other matrices: {names}.", names=", ".join(outside)), cls="note") if outside else Html()
    return tag("h3", title) + tag("p", text, cls="note") + tag("div", table, cls="scroll") + note
