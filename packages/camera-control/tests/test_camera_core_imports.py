"""The numpy core stays light: importing it loads neither torch nor matplotlib nor scipy."""

import subprocess
import sys


def test_core_imports_without_torch():
    modules = "actions checks convert dialects families formats geometry rays rollout trajectory"
    code = (
        "import sys; import camera_control;"
        f"[__import__('camera_control.' + m) for m in '{modules}'.split()];"
        "heavy = [m for m in ('torch', 'matplotlib', 'scipy', 'PIL') if m in sys.modules];"
        "sys.exit('loaded ' + ', '.join(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
