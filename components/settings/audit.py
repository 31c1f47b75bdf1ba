"""Params of audit."""

from __future__ import annotations

from components.settings.section import Count, Positive, Section, Share, Weight


class Audit(Section):
    """Params of audit: the limits of the gates, each a share of the rows the gate looks at."""

    min_rows: Positive  # per split that has rows; a share of fewer rows is unknown
    unknown_passes: bool  # whether a gate that has too little data lets the run go on
    min_success_share: Share  # of the images download tried to get
    max_exact_duplicate_share: Share  # images whose bytes came before in the same split
    max_near_duplicate_share: Share  # train images that look like an earlier one
    near_duplicate_bits: Count  # apart, at most, of a 64-bit difference hash
    near_duplicate_difference: Weight  # grey levels between 16 x 16 colour thumbnails, root mean square
    max_leaked_share: Share  # of the test images that also stand in train or validation, exactly or nearly
    drop_leaked: bool  # take the train and validation images that are also test images out of the kept keys
    max_repeated_caption_share: Share  # of a column's train captions whose text came before; the worst column
    report_rows: Positive  # rows, at most, that the report's figures are drawn from
    samples: Positive  # failing rows listed beside a gate
