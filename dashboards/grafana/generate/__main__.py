from pathlib import Path

from dashboards.grafana.generate import DASHBOARDS, text_of

for name, make in DASHBOARDS.items():
    (Path(__file__).parents[1] / name).write_text(text_of(make()), encoding="utf-8")
