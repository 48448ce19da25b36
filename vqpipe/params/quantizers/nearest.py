"""Moved."""
# shim: moved
from vqpipe.quantizers.cvq import ContrastiveParams as ContrastiveParams
from vqpipe.quantizers.cvq import CvqParams as CvqParams
from vqpipe.quantizers.ema import EmaParams as EmaParams
from vqpipe.quantizers.ema import RestartParams as RestartParams
from vqpipe.quantizers.estimators import Estimator as Estimator
from vqpipe.quantizers.fc import FcParams as FcParams
from vqpipe.quantizers.nearest import BetaOn as BetaOn
from vqpipe.quantizers.nearest import CommittedParams as CommittedParams
from vqpipe.quantizers.nearest import LearnedCodesParams as LearnedCodesParams
from vqpipe.quantizers.nearest import NearestCodeParams as NearestCodeParams
from vqpipe.quantizers.reg_vq import RegVqParams as RegVqParams
from vqpipe.quantizers.sim_vq import SimVqParams as SimVqParams
from vqpipe.quantizers.vq import VqParams as VqParams
