pytest_plugins = ["flashinterp.pytest_plugin"]
