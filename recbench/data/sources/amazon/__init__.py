"""Amazon review data: raw files of the 2014, 2018 and 2023 releases become data sets, by rules that are published."""

from recbench.data.sources.amazon.categories import CATEGORIES, CATEGORIES_2014, CATEGORIES_2023, Category
from recbench.data.sources.amazon.engine import Resources
from recbench.data.sources.amazon.release_2014 import amazon_2014
from recbench.data.sources.amazon.release_2018 import Mode, amazon_2018
from recbench.data.sources.amazon.release_2023 import amazon_2023

__all__ = [
    "CATEGORIES",
    "CATEGORIES_2014",
    "CATEGORIES_2023",
    "Category",
    "Mode",
    "Resources",
    "amazon_2014",
    "amazon_2018",
    "amazon_2023",
]
