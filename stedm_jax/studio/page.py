"""The page: what is shown, and which method of the session each control calls."""

import hashlib
import html
import tempfile
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.themes
import numpy as np

from stedm_jax.common.errors import UserError
from stedm_jax.studio.dropped_images import write_image
from stedm_jax.studio.easel import MOST_STEPS, Easel
from stedm_jax.studio.session import LARGEST_SEED, Captioned, Numbers, Session
from stedm_jax.studio.tile_series import MOST, ROOM

COMPUTE = {"concurrency_id": "compute", "concurrency_limit": 1}
"""Of all events that compute: one at a time, the others wait."""
IMAGES = [".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"]
CSS = """
.gradio-container {width: 100% !important; min-width: 0 !important; margin: 0 auto !important;
  max-width: min(1500px, 100vw) !important}
.column {min-width: min(300px, 100%) !important}
.grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important;
  grid-template-rows: none !important; grid-auto-rows: auto !important}
.grid-wrap {height: auto !important; min-height: 60px !important}
.caption-label {max-width: 100% !important}
#files .label-clear-button {display: none}
.legend {display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 14px}
.legend i {display: inline-block; width: 14px; height: 14px; border-radius: 4px; margin-right: 6px;
  border: 1px solid #0003; vertical-align: -2px}
footer {display: none !important}
@media (max-width: 700px) {
  .gradio-container main {padding: 8px !important}
  #editor {height: 400px !important}
}
"""


def theme() -> gradio.themes.Base:
    """A theme whose fonts are those of the visitor's machine: none is fetched."""
    return gradio.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def spoken(call: Callable[..., Any]) -> Callable[..., Any]:
    """Shows a UserError on the page, as its one paragraph."""

    @wraps(call)  # by whose annotations gradio gives what was clicked
    def run(*given: Any) -> Iterator[Any]:
        try:
            result = call(*given)
            if isinstance(result, Iterator):
                yield from result
            else:
                yield result
        except UserError as error:
            raise gr.Error(str(error), duration=None, title="", print_exception=False) from error

    return run


def make_page(easel: Easel, folder: str) -> gr.Blocks:
    """The page of a run.

    Args:
      easel: of the run.
      folder: for files to download, a folder below it for each visitor.
    """
    with gr.Blocks(title="stedm_jax studio", analytics_enabled=False) as page:
        state = gr.State()
        gr.Markdown(f"## {_escaped(easel.settings.title or easel.settings.name)}: studio")
        with gr.Row():
            with gr.Column(scale=4, min_width=330):
                editor, loads = _layout_part(easel, state)
            with gr.Column(scale=3, min_width=300):
                galleries, mix = _style_part(easel, state)
            with gr.Column(scale=5, min_width=330):
                _tiles_part(easel, state, editor, mix)
        page.load(
            lambda: _begin(easel, folder),
            outputs=[state, editor, loads, *galleries],
            api_visibility="private",
        )
    return page


def _begin(easel: Easel, folder: str) -> tuple[Any, ...]:
    session = Session(easel, Path(tempfile.mkdtemp(dir=folder)))
    pictures = session.layouts(), session.tiles(0), session.tiles(1)
    return session, session.canvas, *(_shown(session, each) for each in pictures)


def _shown(session: Session, pictures: Captioned) -> list[tuple[str, str]]:
    """Pictures as files, which are written once: gradio writes those that it is given as arrays
    again and again, also while the browser is reading them."""
    found = []
    for picture, caption in pictures:
        path = session.folder / f"{hashlib.sha256(picture.tobytes()).hexdigest()[:32]}.png"
        if not path.exists():
            write_image(path, picture)
        found.append((str(path), caption))
    return found


def _escaped(text: str) -> str:
    return html.escape(text)


def _legend(easel: Easel) -> str:
    pairs = zip((*easel.names, "unlabeled"), easel.brushes, strict=True)
    chips = (
        f"<span><i style='background: rgb{color}'></i>{_escaped(name)}</span>"
        for name, color in pairs
    )
    return f"<div class='legend'>{''.join(chips)}</div>"


def _listen(event: Any, call: Callable[..., Any], inputs: Any, outputs: Any, **more: Any) -> Any:
    """Binds an event to a call; no event is offered as an API."""
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    return event(spoken(call), inputs, outputs, **quiet, **more)


def _fill(number: int, session: Session) -> np.ndarray:
    session.blank(number)
    return session.canvas


def _choices(columns: int, name: str) -> gr.Gallery:
    """Pictures of which a click takes one."""
    return gr.Gallery(
        show_label=False,
        columns=columns,
        height="auto",
        allow_preview=False,
        object_fit="contain",
        format="png",
        interactive=False,
        buttons=[],
        elem_id=name,
    )


def _layout_part(easel: Easel, state: gr.State) -> tuple[gr.ImageEditor, gr.Gallery]:
    gr.Markdown("### 1. Layout")
    gr.HTML(_legend(easel))
    colors: list[str | tuple[str, float]] = [
        "#{:02x}{:02x}{:02x}".format(*color) for color in easel.brushes
    ]
    side = easel.side * max(1, 512 // easel.side)
    first = colors[min(1, len(easel.names) - 1)]
    editor = gr.ImageEditor(
        label="Paint with the brush",
        type="numpy",
        image_mode="RGBA",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        canvas_size=(side, side),
        fixed_canvas=True,
        height=460,
        buttons=[],
        brush=gr.Brush(48, colors, first, "fixed"),
        eraser=gr.Eraser(48),
        elem_id="editor",
    )
    with gr.Row():
        for number, name in enumerate(easel.names):
            button = gr.Button(f"All {name}", size="sm", min_width=90)

            _listen(button.click, partial(_fill, number), [state], [editor])
    gr.Markdown("Layouts of the run, which bring their tile; click one:")
    loads = _choices(6, "layouts")
    with gr.Row():
        other = gr.Button("Other layouts", size="sm")
        upload = gr.UploadButton("Layout of a file", size="sm", file_types=IMAGES)

    def load(session: Session, event: gr.SelectData) -> np.ndarray:
        session.load(int(event.index))
        return session.canvas

    def load_file(session: Session, path: str) -> np.ndarray:
        session.load_file(Path(path))
        return session.canvas

    _listen(loads.select, load, [state], [editor])
    _listen(upload.upload, load_file, [state, upload], [editor])
    _listen(other.click, lambda session: _shown(session, session.other_layouts()), [state], [loads])
    return editor, loads


def _style_part(easel: Easel, state: gr.State) -> tuple[list[gr.Gallery], gr.Slider]:
    gr.Markdown("### 2. Style")
    if not easel.style.used:
        gr.Markdown("This generator takes no style; what is chosen here has no effect.")
    galleries = []
    for side, name in enumerate("AB"):
        with gr.Tab(f"Style {name}"):
            galleries.append(_one_style(easel, state, side))
    info = "0: style A alone, 1: style B alone"
    mix = gr.Slider(0, 1, 0, step=0.05, label="Mix A and B", info=info, elem_id="mix")
    return galleries, mix


def _one_style(easel: Easel, state: gr.State, side: int) -> gr.Gallery:
    patients = easel.patients
    who = gr.Dropdown(patients, value=patients[-side], label="Patient of the run")
    count = max(easel.style.tiles, 1)
    gr.Markdown(f"Tiles, of which the style takes {count}; click to choose others:")
    gallery = _choices(4, f"style{side}")
    drop = gr.File(
        label=f"Or your own images, {easel.context.tiles.mpp:g} \N{MICRO SIGN}m/px",
        file_count="multiple",
        file_types=IMAGES,
        height=150,
    )

    def toggle(session: Session, event: gr.SelectData) -> Any:
        return _shown(session, session.toggle(side, int(event.index)))

    def dropped(session: Session, paths: list[str]) -> Any:
        return _shown(session, session.drop(side, [Path(path) for path in paths]))

    def choose(session: Session, patient: str) -> Any:
        return _shown(session, session.choose(side, patient))

    _listen(who.input, choose, [state, who], [gallery])
    _listen(drop.upload, dropped, [state, drop], [gallery])
    _listen(drop.clear, choose, [state, who], [gallery])
    _listen(gallery.select, toggle, [state], [gallery])
    return gallery


def _numbers_part(easel: Easel) -> list[Any]:
    steps, scale = min(easel.section.steps, MOST_STEPS), easel.section.guidance.scale
    with gr.Row():
        seed = gr.Number(
            0, label="First seed", precision=0, minimum=0, maximum=LARGEST_SEED, min_width=120
        )
        steps = gr.Slider(1, MOST_STEPS, steps, step=1, label="Steps", min_width=160)
    with gr.Row():
        guidance = gr.Slider(
            0, 10, scale, step=0.1, label="Guidance", info="1: none", min_width=160
        )
        strength = gr.Slider(
            0.05,
            1,
            1,
            step=0.05,
            label="Strength",
            info="below 1: starts from the tile of the layout",
            min_width=160,
        )
    return [seed, steps, guidance, strength]


def _tiles_part(easel: Easel, state: gr.State, editor: gr.ImageEditor, mix: gr.Slider) -> None:
    gr.Markdown("### 3. Tiles")
    numbers = [*_numbers_part(easel), mix]
    with gr.Row():
        go = gr.Button("Make tiles", variant="primary", scale=3, elem_id="make")
        stop = gr.Button("Stop", min_width=80, scale=1)
    gallery = gr.Gallery(
        show_label=False,
        columns=2,
        height="auto",
        object_fit="contain",
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        elem_id="tiles",
    )
    note = gr.Markdown(elem_id="note")
    opinion = gr.Checkbox(
        False,
        label="Lay over what the segmenter sees",
        interactive=easel.segmenter is not None,
        info="" if easel.segmenter else "this run has no trained segmenter",
        elem_id="opinion",
    )
    files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="files")

    def make(session: Session, painted: Any, seen: bool, *values: Any) -> Iterator[Any]:
        picture = painted["composite"] if painted else None
        for pictures, text in session.make(picture, Numbers.read(*values)):
            yield _shown(session, pictures), text, []
        yield _shown(session, session.pictures(seen)), text, session.files()

    outputs = [gallery, note, files]
    event = _listen(go.click, make, [state, editor, opinion, *numbers], outputs, **COMPUTE)

    def look(session: Session, seen: bool) -> Any:
        return _shown(session, session.pictures(seen))

    _listen(opinion.input, look, [state, opinion], [gallery])
    series = _series_part(easel, state)
    stop.click(None, cancels=[event, series], api_visibility="private")


def _series_part(easel: Easel, state: gr.State) -> Any:
    with gr.Accordion("Many of these, as a tile set", open=False):
        gr.Markdown(
            "The same layout, style and numbers with further seeds, with their provenance, in the "
            f"folder `{ROOM}` of the workdir."
        )
        with gr.Row():
            count = gr.Number(100, label="Tiles", precision=0, minimum=1, maximum=MOST)
            name = gr.Textbox("painted", label="Name of the set", max_length=60)
        button = gr.Button("Make the set", elem_id="series")
        note = gr.Markdown(elem_id="series_note")

    def make(session: Session, count: int | None, name: str) -> Iterator[str]:
        yield from session.series(count, name)

    return _listen(button.click, make, [state, count, name], [note], **COMPUTE)
