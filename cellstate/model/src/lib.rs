//! The nouns of a cell, its resources, feasibility, and the paged picture that everybody shares.
