"""A PACS watched for new T1w head series, which are analysed once each, the results stored beside them."""
