"""Calibration: fit the time grid and the gains of a few-step sampler to a fine solution, by Levenberg-Marquardt."""

from lmlangevin.calibration.config import CalibrateConfig
from lmlangevin.calibration.fit import FitOptions, FitResult, fit
from lmlangevin.calibration.job import CalibrateResult, Calibration, calibrate
from lmlangevin.calibration.students import FirstOrderStudent, SolverStudent, Student
from lmlangevin.schedulers.calibrations import (
    CalibrationFile,
    find_calibration,
    load_calibration,
    shipped_calibrations,
)

__all__ = [
    "CalibrateConfig",
    "CalibrateResult",
    "Calibration",
    "CalibrationFile",
    "FirstOrderStudent",
    "FitOptions",
    "FitResult",
    "SolverStudent",
    "Student",
    "calibrate",
    "find_calibration",
    "fit",
    "load_calibration",
    "shipped_calibrations",
]
