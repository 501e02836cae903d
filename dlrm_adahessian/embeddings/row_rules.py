# pyright: basic
"""Row rules for the `EmbeddingBagCollection`s of anyone's TorchRec model.

`RowRuleSharder` takes the place of TorchRec's `EmbeddingBagCollectionSharder` in `DistributedModelParallel`. Its rows are
updated within `loss.backward()`, as those of TorchRec's fused optimizers are: no other call has to be remembered, and
`model.fused_optimizer` has their learning rate and state. The gradient at the pooled embeddings comes to the owners of the
rows by TorchRec's own backward pass. For rules that read curvature, `log_loss` sends what it lacks (loss_curvature.py).

The curvature is that of the Gauss-Newton matrix, p (1 - p) (dz/dw)^2. It is the Hessian's where the logit z is piecewise
linear in each entry of the pooled embeddings: linear layers, ReLUs, dot interactions of distinct features.
"""

from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.comm_ops import get_gradient_division
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionContext, ShardedEmbeddingBagCollection
from torchrec.distributed.types import Awaitable, ParameterSharding, ShardingEnv
from torchrec.modules.embedding_configs import DataType, PoolingType
from torchrec.optim.fused import EmptyFusedOptimizer

from dlrm_adahessian.embeddings.local_tables import LookedUp, RowTables
from dlrm_adahessian.embeddings.loss_curvature import LossCurvature
from dlrm_adahessian.embeddings.row_optimizer import RowOptimizer
from dlrm_adahessian.embeddings.torchrec_kernel import TYPES, RowLookup, RowSharder, ShardedRows
from dlrm_adahessian.optim.rows import RowConfig


class RowsInBackward(ShardedRows):
    """Embedding bags over all ranks, whose rows are updated in the backward pass."""

    def __init__(self, *args, curvature: LossCurvature, l2: float, **kwargs) -> None:  # noqa: ANN002, ANN003
        self._curvature, self._l2 = curvature, l2
        super().__init__(*args, **kwargs)
        self._rows_optim = RowOptimizer(self.kernels(), self._rule.cfg.lr, self._env.process_group)
        self._optim: Any = self._rows_optim
        for lookup in self._lookups:
            # A rank without tables takes part in the backward pass of the others.
            cast(RowLookup, lookup)._dummy_embs_tensor.requires_grad_()
        for kernel in self.kernels():
            kernel.emb_module.register_forward_hook(self._connect)
        self._let_torchrec_average()

    def input_dist(
        self, ctx: EmbeddingBagCollectionContext, features: KeyedJaggedTensor
    ) -> Awaitable[Awaitable[KJTList]]:
        """Send the lookups to the ranks that hold their rows.

        Args:
            ctx: of this batch.
            features: its lookups, unweighted, B bags a feature.

        Returns:
            What waits for them.

        Raises:
            ValueError: they carry weights, or features differ in their number of bags.
        """
        if features.weights_or_none() is not None:
            raise ValueError(
                "lookups must be unweighted, got weights; build the KeyedJaggedTensor without them"
            )
        if features.variable_stride_per_key():
            raise ValueError(
                f"all features must have as many bags, got {features.stride_per_key()}; build the KeyedJaggedTensor with "
                "a bag for each sample"
            )
        sent = super().input_dist(ctx, features)
        if ctx.divisor is not None:
            # Lengths of bags, or 1 for sums. TorchRec adds 1e-6 to all, against bags without rows.
            ctx.divisor = ctx.divisor.round().clamp(min=1)
        return sent

    def _initialize_torch_state(self, skip_registering: bool = False) -> None:
        ShardedEmbeddingBagCollection._initialize_torch_state(self, skip_registering)
        for _, weight in self.embedding_bags.named_parameters():
            # By this `in_backward_optimizer_filter` leaves them out of a dense optimizer's parameters.
            cast(Any, weight)._in_backward_optimizers = [EmptyFusedOptimizer()]

    def _let_torchrec_average(self) -> None:
        # The rows sum. TorchRec divides afterwards where rows are spread, and then all other bags too.
        features = {pooling.value: [] for pooling in PoolingType}
        for table in self._embedding_bag_configs:
            features[table.pooling.value].extend(table.feature_names)
        self._pooling_type_to_rs_features = features
        self._has_mean_pooling_callback = bool(features[PoolingType.MEAN.value])

    def _connect(self, tables: RowTables, args: object, pooled: Tensor) -> None:
        """Let the gradient of pooled embeddings (N, T * D) update the rows."""
        del args
        if torch.is_grad_enabled():
            update = partial(self._update, tables, tables.take_lookup())
            pooled.requires_grad_().register_post_accumulate_grad_hook(update)

    def _update(self, tables: RowTables, looked_up: LookedUp, pooled: Tensor) -> None:
        grad, pooled.grad = pooled.grad, None
        if grad is None:
            return
        width = tables.weight.shape[1]
        grad = grad.view(len(pooled), -1, width)
        curvature = self._curvature.at_pooled(grad, sees_all_ranks=tables.sees_all_ranks)
        tables.apply_(
            grad.reshape(-1, width),
            None if curvature is None else curvature.flatten(0, 1),
            sampled=None,
            lr_scale=self._rows_optim.lr / self._rule.cfg.lr,
            samples=len(pooled) * (1 if tables.sees_all_ranks else dist.get_world_size()),
            l2=self._l2,
            looked_up=looked_up,
        )


class RowRuleSharder(RowSharder):
    """Shards each `EmbeddingBagCollection` of a model, and has a row rule update its rows in the backward pass.

    Bags are sums or means, lookups unweighted, tables float32 and of any width. Tables are whole on a rank, cut by rows or
    columns, or replicated, as the planner or a plan says. State dicts of the model hold the weights as ShardedTensors.
    """

    def __init__(self, rule: RowConfig, *, l2: float = 0.0) -> None:
        """Choose the rule.

        Args:
            rule: settings of a row rule, e.g. `HessianAdagradConfig(lr=0.05)` of `dlrm_adahessian.optim.rows`.
            l2: of the penalty l2/2 |row|^2 on each row that a batch looks up, once, in gradient and curvature.

        Raises:
            ValueError: `l2` is negative.
        """
        if l2 < 0:
            raise ValueError(f"a penalty is at least 0, got l2={l2}; use 0 for none")
        self._curvature = LossCurvature(rule.pooled_curvature)
        kind = partial(RowsInBackward, curvature=self._curvature, l2=l2)
        super().__init__(rule.build(), torch.float32, kind=kind)
        self._name, self._reads_curvature = rule.name, rule.pooled_curvature != "none"

    def log_loss(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean binary cross-entropy, whose backward pass brings the curvature to the rows.

        Rules that read curvature need it; for others it is the loss alone. The loss may be multiplied by a number, and terms
        may be added that do not depend on the embeddings.

        Args:
            logits: (B,) or (B, 1), of the whole batch of this rank; B is the same on all ranks.
            labels: like `logits`, 0 or 1.
            weight: like `logits`, at least 0, a factor on the loss of each sample; the mean stays one over B, as torch's is.
                None for 1 each.

        Returns:
            () of the type of `logits`. Other than one logit, label and weight per sample are refused by a ValueError.
        """
        return self._curvature.log_loss(logits, labels, weight)

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the ways in which tables may be spread; rules that need whole rows cannot have them cut by columns."""
        types = super().sharding_types(compute_device_type)
        return [kind for kind in types if kind != TYPES["column"] or not self._rule.mixes_columns]

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedRows:
        """Return the sharded module; `DistributedModelParallel` calls it.

        Raises:
            ValueError: the module or the plan asks for what rows of a rule cannot do.
        """
        self._require_rows(module)
        rows = {name: self._planned(name, planned) for name, planned in params.items()}
        if self._reads_curvature and not get_gradient_division():
            raise ValueError(
                f"{self._name} reads curvature, which needs gradients of the mean over ranks, got those of their sum; call "
                "set_gradient_division(True) of torchrec.distributed.comm_ops"
            )
        if env.world_size != dist.get_world_size():
            raise ValueError(
                f"tables are spread over all {dist.get_world_size()} ranks, got a group of {env.world_size}; use "
                "DistributedModelParallel with the default process group"
            )
        return super().shard(module, rows, env, device, module_fqn)

    def _require_rows(self, module: EmbeddingBagCollection) -> None:
        if module.is_weighted():
            raise ValueError(
                "lookups must be unweighted, got an EmbeddingBagCollection with is_weighted=True; make it without"
            )
        pooled_as = {}
        for table in module.embedding_bag_configs():
            self._require_table(table)
            for feature in table.feature_names:
                if pooled_as.setdefault(feature, table.pooling) != table.pooling:
                    raise ValueError(
                        f"a feature is summed or averaged in all tables that it reads, got both of feature {feature}; give "
                        f"the bags of table {table.name} another name"
                    )

    def _require_table(self, table: EmbeddingBagConfig) -> None:
        if table.data_type != DataType.FP32:
            raise ValueError(
                f"tables must be float32, got {table.data_type.value} of table {table.name}; set data_type=DataType.FP32"
            )
        if self._reads_curvature and len(table.feature_names) > 1:
            raise ValueError(
                f"{self._name} reads curvature, which needs one feature per table, got {table.feature_names} of table "
                f"{table.name}; give each feature its table, or take a rule that reads gradients alone"
            )

    def _planned(self, name: str, planned: ParameterSharding) -> ParameterSharding:
        """Return the plan of a table with our kernel, whichever of TorchRec's it names."""
        types = self.sharding_types("")
        if planned.sharding_type not in types:
            raise ValueError(
                f"{self._name} can have tables {', '.join(types)}, got {planned.sharding_type} of table {name}; plan it "
                "otherwise, or let DistributedModelParallel plan"
            )
        (kernel,) = self.compute_kernels(planned.sharding_type, "")
        return replace(planned, compute_kernel=kernel)
