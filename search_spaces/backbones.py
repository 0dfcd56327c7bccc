"""Which features (Sec. IV-C), each with a learning rate of its own.

    cgn sweep search_spaces/backbones.py --data runs/cache/mias-all-... --gpus 0.5
    cgn sweep search_spaces/backbones.py --data ... --set backbone_weights=imagenet

Cost: ResNet-50 takes several times as long as AlexNet; on a CPU use fewer --trials and --set epochs=5 at
first. Expect ImageNet weights to matter more than the architecture. On a hundred pairs, differences between
backbones are smaller than the spread of the folds.
"""

from cgn.config import Config
from cgn_platform.space import Choice, Float, Prune, Space

SPACE = Space(
    base=Config(),
    dimensions={
        "backbone": Choice(("alexnet", "resnet18", "resnet50")),
        "learning_rate": Float(1e-5, 1e-3, log=True),
    },
    first=[{"backbone": "resnet18"}, {"backbone": "resnet50"}],
    trials=24,
    prune=Prune("hyperband", warmup_epochs=5, reduction_factor=3),
)
