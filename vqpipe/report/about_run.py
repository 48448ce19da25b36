"""What ran: params as an outline, package versions, and what each stage cost."""

from __future__ import annotations

from vqpipe.errors import human_bytes
from vqpipe.report.blocks import Absent, Block, Cell, Column, Section, Table, Text, Tree
from vqpipe.report.inputs import Cost, Inputs
from vqpipe.report.names import number

NOT_MEASURED = "not measured in this checkout"


def about_run(inputs: Inputs) -> Section:
    """The section `What ran`."""
    blocks: list[Block] = [
        Text(
            "Every number on this page comes from the params below; the same params "
            "give the same numbers on the "
            "same kind of machine. Times and memory belong to the machine that ran the stage."
        ),
        Tree("Params, section by section", inputs.params),
    ]
    if inputs.packages:
        listed = ", ".join(f"{name} {version}" for name, version in inputs.packages.items())
        blocks.append(Text(f"The artifacts were written with {listed}."))
    else:
        blocks.append(Absent("Package versions: no lineage sidecars in this checkout."))
    blocks.append(_costs(inputs.costs))
    if inputs.strays:
        blocks.append(Text(f"Left over from earlier params and not shown: {', '.join(inputs.strays)}."))
    return Section("run", "What ran", blocks)


def _costs(costs: tuple[Cost, ...]) -> Block:
    measured = [cost for cost in costs if cost.seconds is not None and cost.peak_memory_bytes is not None]
    if not measured:
        return Absent(
            f"Cost: {NOT_MEASURED}. Sidecars with time and memory lie beside the artifacts where a stage ran."
        )
    columns = [Column("output", numeric=False), Column("time", "s"), Column("peak memory"), Column("cores")]
    rows = [
        [
            Cell(cost.output),
            Cell(number(cost.seconds, 1)),
            Cell(human_bytes(cost.peak_memory_bytes)),
            Cell(str(cost.cores or "–")),
        ]
        for cost in costs
        if cost.seconds is not None and cost.peak_memory_bytes is not None
    ]
    total = sum(cost.seconds or 0 for cost in measured)
    peak = max(cost.peak_memory_bytes or 0 for cost in measured)
    rows.append([Cell("all of these"), Cell(number(total, 1)), Cell(human_bytes(peak)), Cell("")])
    lacking = [cost.output for cost in costs if cost.seconds is None]
    note = "Peak memory is the largest resident size of the stage's process or of one of its workers."
    if lacking:
        note += f" {NOT_MEASURED.capitalize()}: {', '.join(lacking)}."
    return Table("Cost of each output", columns, rows, note, frozenset({len(rows) - 1}))
