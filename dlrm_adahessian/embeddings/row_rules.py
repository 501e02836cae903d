# pyright: basic
"""Apply row optimizers to the `EmbeddingBagCollection`s of any TorchRec model.

`RowRuleSharder` replaces TorchRec's `EmbeddingBagCollectionSharder` in `DistributedModelParallel`. `loss.backward()`
updates the embedding rows, as with TorchRec's fused optimizers. No other call is needed, and `model.fused_optimizer` has
the learning rate and the state. TorchRec's backward pass sends the gradient at the pooled embeddings to the owners of the
rows. For rules that read curvature, `log_loss` sends the missing factors (loss_curvature.py).

The curvature is the diagonal of the Gauss-Newton matrix, p (1 - p) (dz/dw)^2. It equals that of the Hessian if the logit z
is piecewise linear in each entry of the pooled embeddings: linear layers, ReLUs, dot interactions of distinct features.
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
    """Shard embedding bags across all ranks, and update their rows in the backward pass."""

    def __init__(self, *args, curvature: LossCurvature, l2: float, **kwargs) -> None:  # noqa: ANN002, ANN003
        self._curvature, self._l2 = curvature, l2
        super().__init__(*args, **kwargs)
        self._rows_optim = RowOptimizer(self.kernels(), self._rule.cfg.lr, self._env.process_group)
        self._optim: Any = self._rows_optim
        for lookup in self._lookups:
            # A rank without tables still takes part in the backward pass.
            cast(RowLookup, lookup)._dummy_embs_tensor.requires_grad_()
        for kernel in self.kernels():
            kernel.emb_module.register_forward_hook(self._connect)
        self._let_torchrec_average()

    def input_dist(
        self, ctx: EmbeddingBagCollectionContext, features: KeyedJaggedTensor
    ) -> Awaitable[Awaitable[KJTList]]:
        """Send the lookups to the ranks that hold their rows.

        Args:
            ctx: context of this batch.
            features: lookups of the batch, unweighted, B bags per feature.

        Returns:
            The awaitable of the lookups that this rank receives.

        Raises:
            ValueError: the lookups have weights, or features differ in their number of bags.
        """
        if features.weights_or_none() is not None:
            raise ValueError(
                "Weighted lookups are not supported. Build the KeyedJaggedTensor without weights."
            )
        if features.variable_stride_per_key():
            raise ValueError(
                f"All features must have the same number of bags, got {features.stride_per_key()}. Build the "
                "KeyedJaggedTensor with one bag per sample."
            )
        sent = super().input_dist(ctx, features)
        if ctx.divisor is not None:
            # The divisor is the bag length, or 1 for sums. TorchRec adds 1e-6 to avoid dividing by zero in empty bags.
            ctx.divisor = ctx.divisor.round().clamp(min=1)
        return sent

    def _initialize_torch_state(self, skip_registering: bool = False) -> None:
        ShardedEmbeddingBagCollection._initialize_torch_state(self, skip_registering)
        for _, weight in self.embedding_bags.named_parameters():
            # This makes `in_backward_optimizer_filter` exclude the weights from a dense optimizer's parameters.
            cast(Any, weight)._in_backward_optimizers = [EmptyFusedOptimizer()]

    def _let_torchrec_average(self) -> None:
        # `RowTables` only sums. TorchRec divides afterwards for row-wise shards; make it do so for all mean-pooled bags.
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
    """Shard each `EmbeddingBagCollection` of a model, and update its rows with a row rule in the backward pass.

    Supports sum and mean pooling, unweighted lookups, and float32 tables of any width. The planner, or your plan, places
    tables whole, by rows, by columns, or replicated. State dicts of the model hold the weights as ShardedTensors.
    """

    def __init__(self, rule: RowConfig, *, l2: float = 0.0) -> None:
        """Choose the rule.

        Args:
            rule: settings of a row rule, e.g. `HessianAdagradConfig(lr=0.05)` from `dlrm_adahessian.optim.rows`.
            l2: factor of the penalty l2/2 |row|^2, added once to gradient and curvature of each row in a batch.

        Raises:
            ValueError: `l2` is negative.
        """
        if l2 < 0:
            raise ValueError(f"l2 must be at least 0, got {l2}. Use 0 for no penalty.")
        self._curvature = LossCurvature(rule.pooled_curvature)
        kind = partial(RowsInBackward, curvature=self._curvature, l2=l2)
        super().__init__(rule.build(), torch.float32, kind=kind)
        self._name, self._reads_curvature = rule.name, rule.pooled_curvature != "none"

    def log_loss(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean binary cross-entropy. Its backward pass sends the curvature to the embedding rows.

        Rules that read curvature require this loss; for other rules it is an ordinary loss. You may multiply the loss by a
        number, and add terms that do not depend on the embeddings.

        Args:
            logits: (B,) or (B, 1), logits of this rank's whole batch; B is the same on all ranks.
            labels: like `logits`, 0 or 1.
            weight: like `logits`, at least 0, a factor on the loss of each sample. As in torch, the mean still divides by
                B. None for 1 each.

        Returns:
            Scalar with the dtype of `logits`. Raises a ValueError without one logit, label, and weight per sample.
        """
        return self._curvature.log_loss(logits, labels, weight)

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the allowed sharding types. Rules that need whole rows exclude column-wise sharding."""
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
            ValueError: the rule does not support the module or the plan.
        """
        self._require_rows(module)
        rows = {name: self._planned(name, planned) for name, planned in params.items()}
        if self._reads_curvature and not get_gradient_division():
            raise ValueError(
                f"{self._name} reads curvature, which needs gradients averaged over ranks, but TorchRec sums them. Call "
                "torchrec.distributed.comm_ops.set_gradient_division(True)."
            )
        if env.world_size != dist.get_world_size():
            raise ValueError(
                f"Tables must be sharded across all {dist.get_world_size()} ranks, got a group of {env.world_size}. Use "
                "DistributedModelParallel with the default process group."
            )
        return super().shard(module, rows, env, device, module_fqn)

    def _require_rows(self, module: EmbeddingBagCollection) -> None:
        if module.is_weighted():
            raise ValueError(
                "Weighted lookups are not supported. Create the EmbeddingBagCollection with is_weighted=False."
            )
        pooled_as = {}
        for table in module.embedding_bag_configs():
            self._require_table(table)
            for feature in table.feature_names:
                if pooled_as.setdefault(feature, table.pooling) != table.pooling:
                    raise ValueError(
                        f"All tables that feature {feature} reads must use the same pooling, got both sum and mean. Rename "
                        f"the feature of table {table.name}."
                    )

    def _require_table(self, table: EmbeddingBagConfig) -> None:
        if table.data_type != DataType.FP32:
            raise ValueError(
                f"Tables must be float32, but table {table.name} is {table.data_type.value}. Set data_type=DataType.FP32."
            )
        if self._reads_curvature and len(table.feature_names) > 1:
            raise ValueError(
                f"{self._name} reads curvature, which needs one feature per table, but table {table.name} has "
                f"{table.feature_names}. Give each feature its own table, or choose a rule that reads only gradients."
            )

    def _planned(self, name: str, planned: ParameterSharding) -> ParameterSharding:
        """Return the plan of a table with its kernel replaced by ours."""
        types = self.sharding_types("")
        if planned.sharding_type not in types:
            raise ValueError(
                f"{self._name} supports {', '.join(types)}, but the plan has {planned.sharding_type} for table {name}. "
                "Change the plan, or let DistributedModelParallel make one."
            )
        (kernel,) = self.compute_kernels(planned.sharding_type, "")
        return replace(planned, compute_kernel=kernel)
