"""Pictures of what was made and measured: images of equal seeds, their differences, and quality over evaluations."""

from lmlangevin.plot.draw import PlotResult, plot
from lmlangevin.plot.pictures import difference

__all__ = ["PlotResult", "difference", "plot"]
