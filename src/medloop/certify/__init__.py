"""Certificates: how many labels are wrong, said with a stated confidence.

The steps are always the same. Freeze labels and scores; draw an audit uniformly (`draw_audit`);
let a person check it; then certify the delivered whole (`whole_set`, `per_class`), the accepted
part (`purity`), a pool while the reviewer is still clicking (`anytime`), or a mean loss
(`mean_loss_bound`). Validity rests on the draw alone: scores may be as bad as they like, they
cost acceptance and never the stated confidence. Errors are relative to the reviewer, whose own
error `with_reviewer` adds.
"""

from medloop.certify.bounds import allowed_errors, audit_size, draw_audit, upper_bound
from medloop.certify.certificate import Certificate
from medloop.certify.losses import hoeffding_bentkus, mean_loss_bound
from medloop.certify.prefix import per_class, whole_set
from medloop.certify.pure import purity
from medloop.certify.reviewer import reviewer_bound, with_reviewer
from medloop.certify.sequential import Anytime, anytime

__all__ = [
    "Anytime",
    "Certificate",
    "allowed_errors",
    "anytime",
    "audit_size",
    "draw_audit",
    "hoeffding_bentkus",
    "mean_loss_bound",
    "per_class",
    "purity",
    "reviewer_bound",
    "upper_bound",
    "whole_set",
    "with_reviewer",
]
