"""Build the report: one page that opens from disk, and the metrics of all stages in one file."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app


def main(
    artifacts: Annotated[Path, typer.Option(help="The folder of all artifacts, metrics and curves.")] = Path(
        "artifacts"
    ),
    out: Annotated[Path, typer.Option(help="The folder for index.html and metrics.json.")] = Path(
        "artifacts/report"
    ),
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Build index.html and metrics.json from the stages that have run.

    Example: python -m stages.report --artifacts artifacts --out artifacts/report --params params.yaml
    """
    from vqpipe.artifacts.inputs_outputs import HTML, JSON
    from vqpipe.artifacts.publish import publish_text
    from vqpipe.artifacts.run import stage_run
    from vqpipe.params.base import load_params
    from vqpipe.report.build import METRICS, PAGE, build_report
    from vqpipe.report.inputs import ReportParams

    config = load_params(params, "report", ReportParams)
    with stage_run("report", config, outputs=[(out / PAGE, HTML), (out / METRICS, JSON)]) as run:
        report = build_report(artifacts, params, config)
        publish_text(run.staged(out / PAGE), report.html)
        run.metrics(out / METRICS, report.metrics)


app = stage_app(main)

if __name__ == "__main__":
    app()
