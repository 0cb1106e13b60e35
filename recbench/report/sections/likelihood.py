"""How likely methods that write titles find the true ones."""

from __future__ import annotations

import math
from dataclasses import replace

from recbench.contracts.comparison import Comparison
from recbench.report.document import Section
from recbench.report.sections.comparison import entry_table, pair_table


def likelihood_section(comparison: Comparison | None, n_items: int) -> Section | None:
    """Return the section, or None where no method has probabilities of titles.

    Args:
        comparison: by likelihood, against the entry with the highest.
        n_items: items of the catalogue.
    """
    if comparison is None:
        return None
    entries = replace(entry_table(comparison), slug="likelihood", headline=True)
    pairs = replace(pair_table(comparison), slug="likelihood-pairs", headline=False)
    return Section(
        slug="likelihood",
        title="Likelihood of the true titles",
        paragraphs=(
            f"{comparison.metric}: natural logarithm of the probability that a language model gives to the target's "
            "whole title right after the prompt, under its full vocabulary, without trie and length normalisation; "
            f"mean over the {comparison.n_examples:,} test examples whose target has a title. To find all "
            f"{n_items:,} items equally likely is worth {-math.log(n_items):.2f}. This is no accuracy: it sees small "
            "differences between models of one kind that a handful of hits cannot show, but the model with the better "
            "likelihood may have the worse list.",
        ),
        tables=(entries, pairs) if comparison.pairs else (entries,),
    )
