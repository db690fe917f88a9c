import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # its modules beside it: pytest's importlib mode adds no folder
