"""Moved."""
# shim: moved
from vqpipe.quantizers.nearest import CommittedParams as CommittedParams, NearestCodeParams as NearestCodeParams, LearnedCodesParams as LearnedCodesParams, BetaOn as BetaOn  # noqa: F401
from vqpipe.quantizers.estimators import Estimator as Estimator  # noqa: F401
from vqpipe.quantizers.vq import VqParams as VqParams  # noqa: F401
from vqpipe.quantizers.ema import RestartParams as RestartParams, EmaParams as EmaParams  # noqa: F401
from vqpipe.quantizers.fc import FcParams as FcParams  # noqa: F401
from vqpipe.quantizers.cvq import ContrastiveParams as ContrastiveParams, CvqParams as CvqParams  # noqa: F401
from vqpipe.quantizers.reg_vq import RegVqParams as RegVqParams  # noqa: F401
from vqpipe.quantizers.sim_vq import SimVqParams as SimVqParams  # noqa: F401
