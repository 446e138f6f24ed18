"""How the page looks. Fonts are those of the visitor's system, so that nothing is fetched from elsewhere."""

HEADER = """
<div class="lml-header">
  <h1>LML</h1>
  <p>The same seeds, network and number of evaluations: a diffusion sampler as it is, and with the
  Levenberg-Marquardt-Langevin correction.</p>
</div>
"""

CSS = """
.gradio-container {--layout-gap: 10px; --lml-soft: color-mix(in srgb, var(--body-text-color) 68%, transparent);
  --lml-red: #b03010; --color-accent: var(--lml-red); --slider-color: var(--lml-red);
  --checkbox-background-color-selected: var(--lml-red); --checkbox-border-color-selected: var(--lml-red);
  --checkbox-border-color-focus: var(--lml-red); --input-border-color-focus: var(--lml-red);
  --button-primary-background-fill: var(--lml-red); --button-primary-background-fill-hover: #8f260c;
  --block-info-text-color: var(--lml-soft)}
.gradio-container, .gradio-container button, .gradio-container input {font-family: system-ui, sans-serif}
.gradio-container .main.fillable {padding: 0 !important}
.gradio-container main {max-width: min(1480px, 100%) !important; margin: 0 auto;
  padding: 10px clamp(12px, 2vw, 24px) !important}
.gradio-container .html-container {padding: 0 !important}
.gradio-container .gap, .gradio-container .row, .gradio-container .column {gap: 10px}
@media (max-width: 700px) {
  #lml-form, #lml-form + .column {flex: 1 1 100%; width: 100% !important; min-width: 0 !important}
  .lml-box thead th:nth-child(n+3), .lml-box td:nth-child(n+3) {display: none}
}
.lml-header {display: flex; flex-wrap: wrap; align-items: baseline; gap: 14px}
.lml-header h1 {font-size: 22px !important; font-weight: 700; margin: 0 !important}
.lml-header p {margin: 0 !important; color: var(--lml-soft); font-size: 14px}
.lml-box {border-left: 4px solid #8b93a1; padding: 8px 14px; font-size: 14px; min-height: 126px;
  background: var(--background-fill-primary)}
.lml-box b {font-size: 15px}
.lml-box span {margin-left: 8px; color: var(--lml-soft)}
.lml-box p {margin: 4px 0 0 !important; font-size: 13.5px; line-height: 1.4; color: var(--lml-soft)}
.lml-box progress {display: block; width: 100%; height: 8px; margin-top: 12px; appearance: none; border: 0;
  border-radius: 4px; overflow: hidden; background: var(--border-color-primary)}
.lml-box progress::-webkit-progress-bar {background: var(--border-color-primary)}
.lml-box progress::-webkit-progress-value {background: var(--lml-red)}
.lml-box progress::-moz-progress-bar {background: var(--lml-red)}
.lml-busy {border-left-color: #2a6fb0}
.lml-done {border-left-color: #2f8f4e}
.lml-error {border-left-color: #c0261c;
  background: color-mix(in srgb, #c0261c 7%, var(--background-fill-primary))}
.lml-box table, .lml-box tr, .lml-box th, .lml-box td {border: 0 !important; background: none !important}
.lml-box table {border-collapse: collapse; margin: 2px 0 0 !important; width: 100%}
.lml-box th, .lml-box td {text-align: left; padding: 1px 14px 1px 0 !important; font-weight: 400; font-size: 13.5px}
.lml-box thead th {color: var(--lml-soft); font-size: 12px}
.lml-box td {font-variant-numeric: tabular-nums}
.lml-box tbody tr:last-child :is(th, td) {font-weight: 600}
#lml-plot {background: #fff; border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 4px}
.lml-plots {display: flex; flex-wrap: wrap}
.lml-plots svg {flex: 1 1 300px; min-width: 0; height: auto; display: block}
#lml-form input:disabled {opacity: 0.45}
#lml-model input {text-overflow: ellipsis; padding-right: 24px}
#lml-script {max-height: 150px; overflow: auto !important}
.lml-pictures {display: flex; flex-wrap: wrap; gap: 14px; justify-content: space-between}
.lml-pictures figure {flex: 1 1 200px; margin: 0 !important; text-align: center; max-width: 520px}
.lml-pictures figcaption {font-size: 13px; font-weight: 600; color: var(--lml-soft); margin: 0 0 5px !important}
.lml-pictures img {display: block; width: 100%; height: auto; margin: 0 !important; border-radius: 0}
.lml-wipe {position: relative}
.lml-wipe .lml-over {position: absolute; inset: 0; clip-path: inset(0 0 0 var(--lml-at, 50%))}
.lml-wipe .lml-line {position: absolute; top: 0; bottom: 0; left: var(--lml-at, 50%); width: 4px; margin-left: -2px;
  background: #fff; box-shadow: 0 0 4px #000; pointer-events: none}
.lml-wipe .lml-line::after {content: "\\2194"; position: absolute; top: 50%; left: -13px; width: 30px; height: 30px;
  margin-top: -15px; border-radius: 50%; background: var(--lml-red); color: #fff;
  font: 18px/29px system-ui; text-align: center}
.lml-wipe input {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize}
.lml-wipe input::-webkit-slider-thumb {width: 2px; height: 100%}
.lml-wipe:focus-within {outline: 2px solid var(--lml-red); outline-offset: 2px}
"""
