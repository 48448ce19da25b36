"""Moved."""
# shim: moved
from vqpipe.quantizers.nearest import CommittedParams, NearestCodeParams, LearnedCodesParams, BetaOn  # noqa: F401
from vqpipe.quantizers.estimators import Estimator  # noqa: F401
from vqpipe.quantizers.vq import VqParams  # noqa: F401
from vqpipe.quantizers.ema import RestartParams, EmaParams  # noqa: F401
from vqpipe.quantizers.fc import FcParams  # noqa: F401
from vqpipe.quantizers.cvq import ContrastiveParams, CvqParams  # noqa: F401
from vqpipe.quantizers.reg_vq import RegVqParams  # noqa: F401
from vqpipe.quantizers.sim_vq import SimVqParams  # noqa: F401
