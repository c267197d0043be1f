"""A PACS that is watched. New T1w head series are analysed once each, and the results are stored beside them."""
