"""The page's one style sheet."""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --card: #f6f7f9; --text: #1c2128; --dim: #59636e; --rule: #d0d7de;
  --good: #1a7f37; --bad: #b42318; --open: #8a5a00; --incumbent: #8793a3; --candidate: #0969da; --passing: #1a7f3722; }
@media screen and (prefers-color-scheme: dark) { :root {
  --ground: #0f1318; --card: #181d24; --text: #e6eaef; --dim: #9aa5b1; --rule: #343c46;
  --good: #4ac26b; --bad: #ff7b72; --open: #e3b341; --incumbent: #6e7a89; --candidate: #58a6ff; --passing: #4ac26b2b; } }
*, ::before { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 16px; }
h1 { margin: 8px 0 0; font-size: 26px; overflow-wrap: anywhere; }
h2 { margin: 36px 0 8px; font-size: 20px; }
h3 { margin: 0 0 6px; font-size: 17px; }
h4 { margin: 14px 0 2px; font-size: 14px; color: var(--dim); overflow-wrap: anywhere; }
.about, .fact, .note, footer, small { color: var(--dim); font-size: 14px; }
.note { border-left: 3px solid var(--open); padding-left: 10px; }
small { display: block; font-weight: normal; }
.outcome { margin: 16px 0 8px; font-size: 22px; font-weight: 700; }
.badge { font-size: 13px; font-weight: 600; white-space: nowrap; }
.passed { color: var(--good); } .failed, .error { color: var(--bad); } .inconclusive, .pending { color: var(--open); }
.informational { color: var(--dim); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 16px 6px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
thead th { color: var(--dim); font-weight: 600; white-space: nowrap; }
td { min-width: 64px; }
.cards { display: grid; gap: 16px; margin-top: 20px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px; min-width: 0; }
.card p { margin: 4px 0; }
svg { display: block; width: 100%; max-width: 480px; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: var(--dim); stroke: var(--card); stroke-width: 3px; paint-order: stroke; }
svg line { stroke-width: 1; } .zero { stroke: var(--dim); } .bound { stroke: var(--open); stroke-dasharray: 4 3; }
rect.ground { fill: var(--passing); } rect.empty { fill: var(--rule); opacity: 0.5; }
line.all { stroke: var(--text); stroke-width: 2; } circle.all { fill: var(--text); }
line.first { stroke: var(--dim); } circle.first { fill: var(--dim); }
rect.incumbent { fill: var(--incumbent); } rect.candidate { fill: var(--candidate); }
polyline.candidate { fill: none; stroke: var(--candidate); stroke-width: 2; }
.legend { display: flex; gap: 16px; font-size: 13px; color: var(--dim); }
.key::before { content: ""; display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
.key.incumbent::before { background: var(--incumbent); } .key.candidate::before { border: 2px solid var(--candidate); }
details { border: 1px solid var(--rule); border-radius: 8px; padding: 8px 12px; margin: 8px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.sides { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.sides > div { min-width: 0; }
pre { margin: 4px 0; padding: 10px; max-height: 320px; overflow: auto; background: var(--card); border-radius: 6px;
  font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
@media print { .card, tr, h2 + * { break-inside: avoid; } h2 { break-after: avoid; } pre { max-height: none; }
  .key::before { print-color-adjust: exact; } .wide { overflow: visible; } .badge, thead th { white-space: normal; }
  table, table small, .badge { font-size: 11px; } th, td { padding-right: 8px; } td { min-width: 0; }
  .cards { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); } }
footer { margin-top: 36px; border-top: 1px solid var(--rule); }
"""
