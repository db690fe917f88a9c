"""What the parts of graft say to each other: resources, run manifest, reports, artifact layout."""
