"""Published weights in, our weights out.

    python -m stedm_jax.convert list
    python -m stedm_jax.convert download NAME --out=FILE
    python -m stedm_jax.convert NAME FILE --out=DIR
    python -m stedm_jax.convert export STAGE_OR_FOLDER --out=DIR --format=published

NAME is one of the list. FILE is a .safetensors, .ckpt, .pt, .pth, .bin or .npz, or a folder of diffusers. Nothing in a
file is executed. What comes out is a folder that `init_from` of a configuration takes. STAGE is a stage of a run, as
runs/glas/diffusion or runs/glas/segmentation/labelled-0; FOLDER is a converted one.
"""

import argparse
import sys
from pathlib import Path

from stedm_jax.convert.registry import NETWORKS, Entry, entries, entry, tables
from stedm_jax.errors import UserError

COMMANDS = ("list", "download", "export")


def _parser(prog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m stedm_jax.convert{prog}", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, help="does not exist yet, or --force")
    parser.add_argument("--force", action="store_true", help="replace what this command wrote there before")


def show() -> None:
    """Prints the registry."""
    known = list(entries().values())
    width = max(len(each.name) for each in known)
    for each in known:
        print(f"{each.name:<{width}}  {each.what}")
        print(f"{'':<{width}}    licence: {each.licence}{'; access on request' if each.gated else ''}")
        print(f"{'':<{width}}    source:  {each.source}")
        for file, digest in each.sha256.items():
            print(f"{'':<{width}}    sha256:  {digest}  {file}{' (download)' if file in each.urls else ''}")
    print("\nGet a file by hand from its source, then: python -m stedm_jax.convert NAME FILE --out=DIR")


def convert(argv: list[str]) -> None:
    """Converts one file."""
    parser = _parser("")
    parser.add_argument("name", help="of the list, or one of the commands list, download, export")
    parser.add_argument("file", type=Path)
    parser.add_argument("--load_only", default="", help="comma-separated regular expressions of our paths")
    parser.add_argument("--key", default="", help="the part of a checkpoint to take, such as ema")
    _out(parser)
    arguments = parser.parse_args(argv)
    chosen = entry(arguments.name)
    from stedm_jax.convert.folder import new_folder, write_params  # these bring numpy and JAX
    from stedm_jax.convert.weights import convert as read
    from stedm_jax.convert.weights import unknown_files

    patterns = [each for each in arguments.load_only.split(",") if each]
    with new_folder(arguments.out, arguments.force) as folder:
        params, info = read(chosen, arguments.file, key=arguments.key, load_only=patterns)
        write_params(folder, params, info)
    for file in unknown_files(chosen, info):
        print(f"note: {file} is not the file whose checksum the registry has (sha256 {info['files'][file]})")
    parts = ", ".join(f"{count} of {name}" for name, count in info["left_out"].items())
    print(f"{chosen.name}: {info['loaded']} arrays, {info['parameters']:,} parameters, in {arguments.out}")
    print(f"left out of the file: {parts or 'nothing'}")
    if lost := info["not_loaded"]:
        more = ", ..." if len(lost) > 5 else ""
        print(f"{len(lost)} arrays of the network are not in the result: {', '.join(lost[:5])}{more}")
    print(f"licence: {chosen.licence}")


def _download(argv: list[str]) -> None:
    parser = _parser(" download")
    parser.add_argument("name")
    _out(parser)
    arguments = parser.parse_args(argv)
    from stedm_jax.convert.download import download

    for path in download(entry(arguments.name), arguments.out, force=arguments.force):
        print(f"{path}: as known")


def _export(argv: list[str]) -> None:
    from stedm_jax.convert.export import FORMATS, export_parts

    parser = _parser(" export")
    parser.add_argument("source", type=Path, help="a stage of a run, or a converted folder")
    parser.add_argument("--format", choices=FORMATS, default="ours")
    parser.add_argument("--licence", default="", help="of the exported weights, for the model card")
    _out(parser)
    arguments = parser.parse_args(argv)
    from stedm_jax.convert.folder import is_converted, load_folder

    settings = None
    if is_converted(arguments.source):
        params, info = load_folder(arguments.source)
        parts, network = {"model": params}, str(info["network"])
        known = entries().get(str(info["name"]))
        found = {"model": tables(network)[0]} if network in NETWORKS else {}
        card = dict(info.get("card", {})) or _card_of(known, info)
        if arguments.format == "published" and network not in NETWORKS:
            raise UserError(
                f"{arguments.source} holds weights of a stage, whose published names depend on its settings; export "
                "them from the stage's folder in the run."
            )
        if arguments.format == "diffusers":
            raise UserError(
                f"{arguments.source} is a converted folder; --format=diffusers is for stages. Take ours or published."
            )
    else:
        from stedm_jax.convert.run import read_run

        run = read_run(arguments.source)
        parts, found, card, network = run.parts, run.tables, dict(run.card), f"stage {run.card['stage']} of stedm_jax"
        if arguments.format == "diffusers":
            if not run.diffusers:
                raise UserError(
                    "--format=diffusers is for autoencoders whose levels all have 128 channels or more (below "
                    "that our group norms differ); export ours or published."
                )
            found, settings = {name: each[0] for name, each in run.diffusers.items()}, run.diffusers["model"][1]
    card |= {"licence": arguments.licence} if arguments.licence else {}
    export_parts(
        parts, arguments.out, card=card, network=network, tables=found, format=arguments.format,
        settings=settings, force=arguments.force,
    )  # fmt: skip
    print(f"{arguments.out}: {', '.join(sorted(each.name for each in arguments.out.iterdir()))}")


def _card_of(known: Entry | None, info: dict) -> dict:
    return {
        "title": info["name"],
        "licence": info.get("licence", known.licence if known else ""),
        "data": f"weights published by others: {info.get('source', 'unknown')}",
        "what": info.get("what"),
    }


def main(argv: list[str]) -> None:
    """Runs one command.

    Raises:
      UserError: for anything that the user can mend.
    """
    if not argv or argv[0] in ("-h", "--help"):
        _parser("").parse_args(argv or ["--help"])
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
            f"\nerror: {error.strerror or error} at {error.filename}. Nothing was written.", file=sys.stderr, flush=True
        )
        sys.exit(2)


if __name__ == "__main__":
    cli()
