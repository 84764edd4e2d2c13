"""Published weights in, our weights out.

    python -m stedm_jax.convert list
    python -m stedm_jax.convert download NAME --out=FILE
    python -m stedm_jax.convert NAME FILE --out=weights/NAME
    python -m stedm_jax.convert export STAGE_OR_FOLDER --out=DIR --format=published

NAME is one of the list. FILE is a .safetensors, .ckpt, .pt, .pth, .bin or .npz, or a folder of
diffusers. Nothing in a file is executed. What comes out is a folder that `init_from` of a
configuration takes. STAGE is a stage of a run, as runs/glas/diffusion or
runs/glas/segmentation/labelled-0; FOLDER is a converted one. Each command has a --help of its
own: `download --help`, `export --help`; below are the options of the third line.
"""

import argparse
import sys
from pathlib import Path

from stedm_jax.common.errors import UserError
from stedm_jax.convert.averages import CHOICES
from stedm_jax.convert.registry import entries, entry

COMMANDS = ("list", "download", "export")


def _parser(prog: str, what: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m stedm_jax.convert{prog}",
        description=what,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="where to write; must not exist yet, but for --force",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace what this command wrote there before"
    )


def show() -> None:
    """Prints the registry."""
    known = list(entries().values())
    width = max(len(each.name) for each in known)
    for each in known:
        print(f"{each.name:<{width}}  {each.what}")
        print(
            f"{'':<{width}}    licence: {each.licence}{'; access on request' if each.gated else ''}"
        )
        print(f"{'':<{width}}    source:  {each.source}")
        for file, digest in each.sha256.items():
            part = (
                ""
                if len(digest) == 64
                else f"... (its first {len(digest)} digits are all that is published)"
            )
            print(
                f"{'':<{width}}    sha256:  {digest}{part}  {file}{' (download)' if file in each.urls else ''}"
            )
    print(
        "\nWhat has (download) is fetched by: python -m stedm_jax.convert download NAME --out=FILE. Get other files by "
        "hand\nfrom their sources. Then: python -m stedm_jax.convert NAME FILE --out=weights/NAME"
    )


def _convert_parser() -> argparse.ArgumentParser:
    parser = _parser("", __doc__)
    parser.add_argument("name", metavar="NAME", help="of the list")
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="a file of weights, or a folder with them"
    )
    parser.add_argument(
        "--weights",
        choices=CHOICES,
        default="auto",
        help="of a checkpoint that has a denoiser's averages over the training (EMA) beside its last weights: ema "
        "takes the averages, with which the publishers sample; raw the last; auto (default) averages where there are",
    )
    parser.add_argument(
        "--load_only",
        metavar="REGEX,...",
        default="",
        help="take only the arrays whose paths, as a/b/kernel, fit one of these regular expressions",
    )
    parser.add_argument(
        "--key",
        default="",
        help="of a file that holds several state dicts (student and teacher, say): the name of the one to take; "
        "without it an error lists them",
    )
    _out(parser)
    return parser


def convert(argv: list[str]) -> None:
    """Converts one file."""
    arguments = _convert_parser().parse_args(argv)
    chosen = entry(arguments.name)
    from stedm_jax.convert.weights import convert as read
    from stedm_jax.convert.weights import unknown_files
    from stedm_jax.training.weights_folder import (  # these bring numpy and JAX
        new_folder,
        write_params,
    )

    patterns = [each for each in arguments.load_only.split(",") if each]
    with new_folder(arguments.out, arguments.force) as folder:
        params, info = read(
            chosen, arguments.file, key=arguments.key, weights=arguments.weights, load_only=patterns
        )
        write_params(folder, params, info)
    for file in unknown_files(chosen, info):
        print(
            f"note: {file} is not the file whose checksum the registry has (sha256 {info['files'][file]})"
        )
    parts = ", ".join(f"{count} of {name}" for name, count in info["left_out"].items())
    print(
        f"{chosen.name}: {info['loaded']} arrays, {info['parameters']:,} parameters, in {arguments.out}"
    )
    if chosen.averages:
        print(
            f"taken: averages over the training (EMA), {info['averages']} arrays; --weights=raw takes the last weights"
            if info["averages"]
            else "taken: the last weights, not averages over the training (EMA)"
        )
    print(f"left out of the file: {parts or 'nothing'}")
    if lost := info["not_loaded"]:
        more = ", ..." if len(lost) > 5 else ""
        print(
            f"{len(lost)} arrays of the network are not in the result: {', '.join(lost[:5])}{more}"
        )
    print(f"licence: {chosen.licence}")


def _download(argv: list[str]) -> None:
    parser = _parser(
        " download",
        "Fetches a file that the list marks with (download), and compares its checksum.",
    )
    parser.add_argument("name", metavar="NAME", help="of the list")
    _out(parser)
    arguments = parser.parse_args(argv)
    from stedm_jax.convert.download import download

    for path in download(entry(arguments.name), arguments.out, force=arguments.force):
        print(
            f"{path}: checksum as known; next: python -m stedm_jax.convert {arguments.name} {path} --out=DIR"
        )


def _export(argv: list[str]) -> None:
    from stedm_jax.convert.export import FORMATS, export_parts

    parser = _parser(" export", "Writes weights as safetensors, with a model card.")
    parser.add_argument(
        "source", metavar="STAGE_OR_FOLDER", type=Path, help="of a run, or a converted folder"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="ours",
        help="ours: a folder that init_from takes; published: under the names of the published PyTorch network; "
        "diffusers: an autoencoder as diffusers loads it",
    )
    parser.add_argument("--licence", default="", help="of the exported weights, for the model card")
    _out(parser)
    arguments = parser.parse_args(argv)
    from stedm_jax.convert.run import read_converted, read_run
    from stedm_jax.training.weights_folder import is_converted

    read = read_converted if is_converted(arguments.source) else read_run
    trained, tables, settings = read(arguments.source), None, None
    card = dict(trained.card) | ({"licence": arguments.licence} if arguments.licence else {})
    if arguments.format == "diffusers":
        if not trained.diffusers:
            raise UserError(
                "--format=diffusers is for stages that trained an autoencoder of the kind vq or kl whose levels all "
                "have 128 channels or more (below that our group norms differ); export ours or published."
            )
        tables, settings = (
            {name: each[0] for name, each in trained.diffusers.items()},
            trained.diffusers["model"][1],
        )
    if arguments.format == "published":
        if not trained.loads:
            raise UserError(
                f"{arguments.source} ({trained.network}) has no published names; give --format=ours. Weights of a "
                "segmenter or denoiser that were exported once have them only in their stage's folder in the run."
            )
        card["names"] = f"those of {trained.loads}"
    export_parts(
        trained.parts,
        arguments.out,
        card=card,
        network=trained.network,
        tables=tables or trained.tables,
        forms=trained.forms,
        format=arguments.format,
        settings=settings,
        force=arguments.force,
    )
    print(f"{arguments.out}: {', '.join(sorted(each.name for each in arguments.out.iterdir()))}")
    if "names" in card:
        print(f"names: {card['names']}")


def main(argv: list[str]) -> None:
    """Runs one command.

    Raises:
      UserError: for anything that the user can mend.
    """
    if not argv or argv[0] in ("-h", "--help"):
        _convert_parser().parse_args(argv or ["--help"])
    if argv[0] == "list":
        show()
    elif argv[0] == "download":
        _download(argv[1:])
    elif argv[0] == "export":
        _export(argv[1:])
    else:
        convert(argv)


def cli() -> None:
    """Runs main and turns what a user can mend into one paragraph and exit status 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)  # whoever read the output has gone
    except OSError as error:
        print(
            f"\nerror: {error.strerror or error}{f' at {error.filename}' if error.filename else ''}. Nothing was "
            "written.",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(2)


if __name__ == "__main__":
    cli()
