"""Moved."""
# shim: moved
from vqpipe.data.adapters.base import Holdout  # noqa: F401
from vqpipe.data.adapters.coco import CocoSource, CocoSplit  # noqa: F401
from vqpipe.data.adapters.image_folder import ImageFolderSource  # noqa: F401
from vqpipe.data.adapters.listings import Layout  # noqa: F401
from vqpipe.data.adapters.pairs import PairsSource  # noqa: F401
from vqpipe.data.build import DatasetParams, Resize, Source  # noqa: F401
from vqpipe.data.records import SPLITS, SplitName  # noqa: F401
