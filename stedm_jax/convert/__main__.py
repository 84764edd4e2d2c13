"""Published weights in, our weights out.

    python -m stedm_jax.convert list
    python -m stedm_jax.convert download NAME --out=FILE
    python -m stedm_jax.convert NAME FILE --out=weights/NAME
    python -m stedm_jax.convert export STAGE_OR_FOLDER --out=DIR --format=published

NAME is an entry of the list. FILE is a .safetensors, .ckpt, .pt, .pth, .bin or .npz, or a folder of
diffusers. Nothing in a file is executed. What comes out is a folder that `init_from` of a
configuration takes. STAGE is a trained stage of a run, as runs/glas/generator/stedm or
runs/glas/segmentation/labelled/0; FOLDER is a converted one. Each command has a --help of its own:
`download --help`, `export --help`; below are the options of the third line.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from stedm_jax.common.commands import command_parser, run_command
from stedm_jax.common.errors import UserError
from stedm_jax.convert.published_averages import CHOICES
from stedm_jax.convert.registry import ENTRIES, SMP_UNET, entry


def _parser(prog: str, what: str | None) -> argparse.ArgumentParser:
    parser = command_parser(f"stedm_jax.convert{prog}", what)
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="where to write; must not exist yet, unless --force is given",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace what this command wrote there before"
    )
    return parser


def show() -> None:
    """Prints the registry."""
    width = max(map(len, ENTRIES))
    for each in ENTRIES.values():
        lines = [
            f"license: {each.license}{'; access on request' if each.gated else ''}",
            f"source:  {each.source}",
        ]
        for file, digest in each.sha256.items():
            first = f"... (its first {len(digest)} digits are all that is published)"
            digits = digest if len(digest) == 64 else digest + first
            lines.append(f"sha256:  {digits}  {file}{' (download)' if file in each.urls else ''}")
        print(f"{each.name:<{width}}  {each.what}")
        for line in lines:
            print(f"{'':<{width}}    {line}")
    print(
        "\nWhat has (download) is fetched by: python -m stedm_jax.convert download NAME --out=FILE."
        " Get other files by hand\nfrom their sources. Then: python -m stedm_jax.convert NAME FILE"
        " --out=weights/NAME"
    )


def _convert_parser() -> argparse.ArgumentParser:
    parser = _parser("", __doc__)
    parser.add_argument("name", metavar="NAME", help="an entry of the list")
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="a file of weights, or a folder with them"
    )
    parser.add_argument(
        "--weights",
        choices=CHOICES,
        default="auto",
        help="for a checkpoint that holds a denoiser's averages over the training (EMA) beside its "
        "last weights: ema takes the averages, which its publishers sample with; raw takes the "
        "last weights; auto (default) takes the averages if there are any",
    )
    parser.add_argument(
        "--load_only",
        metavar="REGEX,...",
        default="",
        help="take only the arrays whose paths, as a/b/kernel, fit one of these regular "
        "expressions",
    )
    parser.add_argument(
        "--key",
        default="",
        help="name of the state dict to take from a file that holds several (student and teacher, "
        "say); without it an error lists them",
    )
    return parser


def convert(argv: list[str]) -> None:
    """Converts one file."""
    arguments = _convert_parser().parse_args(argv)
    chosen = entry(arguments.name)
    # These bring NumPy and JAX.
    from stedm_jax.convert.from_published import convert as read
    from stedm_jax.convert.from_published import unknown_files
    from stedm_jax.convert.smp_unet import advice as segmenter_advice
    from stedm_jax.convert.stedm_checkpoint import NAME, advice
    from stedm_jax.convert.stedm_checkpoint import convert as convert_checkpoint
    from stedm_jax.training.weights_folder import new_folder, write_params

    patterns = [each for each in arguments.load_only.split(",") if each]
    options = {"key": arguments.key, "weights": arguments.weights}
    if chosen.name == NAME and patterns:
        raise UserError(f"{NAME} is taken whole; leave out --load_only.")
    with new_folder(arguments.out, arguments.force) as folder:
        if chosen.name == NAME:
            info = convert_checkpoint(chosen, arguments.file, folder, **options)
        else:
            params, info = read(chosen, arguments.file, **options, load_only=patterns)
            write_params(folder, params, info)
    for file in unknown_files(chosen, info):
        print(
            f"note: {file} is not the file whose checksum the registry has (sha256 "
            f"{info['files'][file]})"
        )
    print(
        f"{chosen.name}: {info['loaded']} arrays, {info['parameters']:,} parameters, in "
        f"{arguments.out}"
    )
    if info["averages"]:
        print(
            f"taken: averages over the training (EMA), {info['averages']} arrays; --weights=raw "
            "takes the last weights"
        )
    elif chosen.averages:
        print("taken: the last weights, not averages over the training (EMA)")
    parts = ", ".join(f"{count} of {name}" for name, count in info["left_out"].items())
    print(f"left out of the file: {parts or 'nothing'}")
    if lost := info["not_loaded"]:
        more = ", ..." if len(lost) > 5 else ""
        print(
            f"{len(lost)} arrays of the network are not in the result: {', '.join(lost[:5])}{more}"
        )
    print(f"license: {chosen.license}")
    if chosen.name == NAME:
        print(advice(arguments.out, info))
    elif chosen.network == SMP_UNET and not lost:
        print(segmenter_advice(info["network"], info))


def _download(argv: list[str]) -> None:
    parser = _parser(
        " download",
        "Fetches a file that the list marks with (download), and compares its checksum.",
    )
    parser.add_argument("name", metavar="NAME", help="an entry of the list")
    arguments = parser.parse_args(argv)
    from stedm_jax.convert.download import download

    for path in download(entry(arguments.name), arguments.out, force=arguments.force):
        print(
            f"{path}: checksum as known; next: python -m stedm_jax.convert {arguments.name} {path} "
            "--out=DIR"
        )


def _export(argv: list[str]) -> None:
    # These bring NumPy and JAX.
    from stedm_jax.convert.export_weights import FORMATS, export
    from stedm_jax.convert.from_run import read

    parser = _parser(" export", "Writes weights as safetensors, with a model card.")
    parser.add_argument(
        "source",
        metavar="STAGE_OR_FOLDER",
        type=Path,
        help="folder of a trained stage of a run, or a converted folder",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="ours",
        help="ours: a folder that init_from takes; published: under the names of the published "
        "PyTorch network; diffusers: an autoencoder as diffusers loads it",
    )
    parser.add_argument(
        "--licence",
        "--license",
        default="",
        help="license of the exported weights, for the model card",
    )
    arguments = parser.parse_args(argv)
    source, out = arguments.source, arguments.out
    trained = read(source)
    if arguments.licence:
        trained = replace(trained, card={**trained.card, "licence": arguments.licence})
    export(trained, out, arguments.format, arguments.force)
    print(f"{out}: {', '.join(sorted(each.name for each in out.iterdir()))}")
    if arguments.format == "published":
        print(f"names: those of {trained.loads}")


COMMANDS = {"list": lambda _: show(), "download": _download, "export": _export}


def main(argv: list[str]) -> None:
    """Runs one command.

    Raises:
      UserError: for anything that the user can repair.
    """
    try:
        if argv and argv[0] in COMMANDS:
            COMMANDS[argv[0]](argv[1:])
        else:
            convert(argv or ["--help"])
    except BrokenPipeError:
        sys.exit(1)  # the reader of the output has gone
    except OSError as error:
        place = f" at {error.filename}" if error.filename else ""
        raise UserError(f"{error.strerror or error}{place}. Nothing was written.") from error


if __name__ == "__main__":
    run_command(main)
