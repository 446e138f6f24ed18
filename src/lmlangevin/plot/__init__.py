"""Pictures of what was made and measured: images of equal seeds, their differences, and quality over evaluations."""

from lmlangevin.plot.draw import PlotResult, plot
from lmlangevin.plot.pictures import difference
from lmlangevin.plot.sheet import contact_sheet

__all__ = ["PlotResult", "contact_sheet", "difference", "plot"]
