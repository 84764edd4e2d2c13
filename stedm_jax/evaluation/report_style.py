"""The look of the report: one style sheet, for light and dark screens, narrow and wide, and
paper."""

CSS = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --card: #ffffff; --ink: #1f2328; --faint: #67707a; --line: #e3e0da;
  --accent: #0072b2; --good: #00795a; --bad: #b34700; --wash: #f1eee8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --card: #1b1f24; --ink: #e6e6e3; --faint: #98a1ab; --line: #2f353c;
    --accent: #56b4e9; --good: #2dbe96; --bad: #f0a35e; --wash: #22272d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1060px; margin: 0 auto; padding: 3.2rem 1.4rem 4rem; }
h1, h2 { font-family: Georgia, "Iowan Old Style", "Times New Roman", serif; font-weight: 600; }
h1 { font-size: clamp(1.8rem, 4.5vw, 2.7rem); line-height: 1.15; margin: 0 0 .6rem; }
h2 { font-size: 1.5rem; margin: 3.2rem 0 .4rem; padding-top: 1.3rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
p { margin: .5rem 0 1rem; max-width: 44rem; }
.lead { font-size: 1.12rem; color: var(--faint); }
.note, figcaption { color: var(--faint); font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: 1.2rem 0 0; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); gap: .9rem;
  margin: 1.6rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1rem 1.1rem; border-top: 4px solid var(--stripe, var(--line)); }
.card b { display: block; font-size: 1.9rem; line-height: 1.15; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.card span { display: block; color: var(--faint); font-size: .86rem; }
.card .label { color: var(--ink); font-weight: 600; margin-bottom: .25rem; overflow-wrap: anywhere; }
.verdict { background: var(--wash); border-left: 4px solid var(--faint); border-radius: 0 10px 10px 0;
  padding: .8rem 1.1rem; margin: .9rem 0; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
.verdict p { margin: .2rem 0; max-width: none; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
.plate { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: .8rem;
  display: inline-block; max-width: 100%; }
figcaption { margin-top: .5rem; max-width: 44rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .38rem .9rem .38rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); font-size: .84rem; vertical-align: bottom; white-space: normal; }
th:last-child, td:last-child { padding-right: 0; }
td.n, th.n { text-align: right; max-width: 9rem; }
tbody tr:hover { background: var(--wash); }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em;
  background: var(--stripe); }
.bar { display: grid; grid-template-columns: 9rem 1fr 5.5rem; gap: .8rem; align-items: center;
  font-size: .92rem; margin: .3rem 0; }
.bar i { display: block; height: .8rem; border-radius: 4px; background: var(--accent); opacity: .75;
  min-width: 2px; }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--wash); border-radius: 10px; padding: 1rem; overflow: auto; font-size: .82rem;
  line-height: 1.45; max-height: 32rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.4rem; font-size: .92rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
@page { margin: 14mm; }
@media print { body { background: #fff; } main { padding: 0; } nav { display: none; }
  figure, .card, tr { break-inside: avoid; }
  .scroll { overflow-x: visible; } table, th { font-size: .72rem; } th, td { padding-right: .55rem; } }
@media (max-width: 560px) { main { padding-top: 1.8rem; } .bar { grid-template-columns: 6.5rem 1fr 4.5rem; } }
"""
