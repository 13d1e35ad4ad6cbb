"""`cierzo classifier`: make, list, show and remove named classifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import out
from cierzo.cli.store import store_of

if TYPE_CHECKING:
    from cierzo.classifiers.definition import Classifier, Quality
    from cierzo.settings import Settings

Name = Annotated[str, typer.Argument(help="What clients call it, as `model`.")]
Owner = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        help="The workspace whose own it is; shared by all of them if not given.",
        show_default=False,
    ),
]


def create(
    name: Name,
    labels: Annotated[
        str | None, typer.Option(help="Labels to choose from, separated by commas.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="What a violation is, in words: a yes-or-no classifier.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="What to ask beside --labels, in words.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help='Lines of {"text": …, "label": …}, to measure it and to fit a head on.'),
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Measure on --examples, but fit no head.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="The model that answers: as for `serve` [default: the default model]."),
    ] = None,
    workspace: Owner = None,
    dtype: options.Dtype = None,
    home: options.Home = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Make a classifier of --labels or of a --policy, in place of any of that name and owner.

    With --examples a head is fitted on the model's hidden states, and what `show` tells of its
    quality comes from examples that the fit had not seen. Labels of a policy are yes and no.
    """
    from cierzo.classifiers.definition import Classifier, ClassifierFolder
    from cierzo.classifiers.question import policy_question, topic_question
    from cierzo.cli.serve import id_of
    from cierzo.hub import DEFAULT_MODEL

    if (labels is None) == (policy is None):
        raise typer.BadParameter("give either --labels or --policy")
    settings = options.settings_of(dtype=dtype, home=home, data=data, database_url=database_url)
    owner = _owner_id(workspace, settings)
    if policy is not None:
        question = policy_question(policy)
    else:
        question = topic_question([part.strip() for part in str(labels).split(",")], instruction)
    folder = ClassifierFolder(settings.data)
    made = Classifier(name, id_of(model or DEFAULT_MODEL), question)
    folder.check(made)
    if examples is not None:
        from cierzo.cli.fit import fit

        made = fit(made, examples, model or DEFAULT_MODEL, settings, with_head=not zero_shot)
    elif zero_shot:
        raise typer.BadParameter("--zero-shot says how to use --examples; give some")
    folder.save(made, owner)
    _print(made)


def list_(data: options.Data = None, database_url: options.DatabaseUrl = None) -> None:
    """Every classifier on this machine."""
    from rich.table import Table

    from cierzo.classifiers.definition import ClassifierFolder
    from cierzo.store import workspaces

    settings = options.settings_of(data=data, database_url=database_url)
    folder = ClassifierFolder(settings.data)
    with store_of(settings) as database:
        paths = {workspace.id: workspace.path for workspace in workspaces.list_all(database)}
    table = Table("name", "workspace", "model", "answers", "head", "accuracy", box=None)
    kept = [(owner, name) for owner in folder.owners() for name in folder.names(owner)]
    for owner, name in kept:
        classifier = folder.get(name, owner)
        report = classifier.report
        quality = None if report is None else report.head or report.question
        table.add_row(
            name,
            "all" if owner is None else paths.get(owner, owner),
            classifier.model,
            ", ".join(classifier.question.labels),
            "fitted" if classifier.head is not None else "none",
            "unknown" if quality is None else f"{quality.accuracy:.1%}",
        )
    out.print(table if table.row_count else "no classifiers; `cierzo classifier create` makes one")


def show(
    name: Name,
    workspace: Owner = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """What a classifier asks, and how well it does."""
    from cierzo.classifiers.definition import ClassifierFolder

    settings = options.settings_of(data=data, database_url=database_url)
    _print(ClassifierFolder(settings.data).get(name, _owner_id(workspace, settings)))


def remove(
    name: Name,
    workspace: Owner = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Delete a classifier."""
    from cierzo.classifiers.definition import ClassifierFolder

    settings = options.settings_of(data=data, database_url=database_url)
    ClassifierFolder(settings.data).remove(name, _owner_id(workspace, settings))
    typer.echo(f"{name} removed")


def _owner_id(workspace: str | None, settings: Settings) -> str | None:
    if workspace is None:
        return None
    from cierzo.store import workspaces

    with store_of(settings) as database:
        return workspaces.find(database, workspace).id


def _print(classifier: Classifier) -> None:
    question = classifier.question
    typer.echo(f"{classifier.name}: asks {classifier.model}")
    typer.echo(f"  {question.instruction}\n  {', '.join(question.labels)}")
    report = classifier.report
    if report is None:
        typer.echo("quality unknown: no examples were given")
        return
    typer.echo(f"\nwithout a head, {report.num_examples} examples: {_summary(report.question)}")
    if report.head is not None:
        typer.echo(f"with its head, examples that the fit had not seen: {_summary(report.head)}")
    quality = report.head or report.question
    typer.echo("\n" + _confusion(classifier, quality))
    typer.echo("\nhow sure  how often right  examples")
    for sure, right, count in quality.bins:
        typer.echo(f"{sure:8.0%}  {right:15.0%}  {count:8}")


CLASSIFIER: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_,
    "show": show,
    "remove": remove,
}


def _summary(quality: Quality) -> str:
    return (
        f"accuracy {quality.accuracy:.1%}, log loss {quality.log_loss:.3f}, "
        f"calibration error {quality.calibration_error:.1%}"
    )


def _confusion(classifier: Classifier, quality: Quality) -> str:
    """The confusion matrix: a row per true label, a column per answer."""
    labels = classifier.question.labels
    width = max(len(label) for label in (*labels, "true \\ given"))
    lines = [["true \\ given", *labels]]
    lines += [[label, *map(str, row)] for label, row in zip(labels, quality.confusion, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell in line) for line in lines)
