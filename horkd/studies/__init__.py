"""Tasks: what a network is for, and the studies that ask something about it.

A task is a folder here. Its module `task` holds a `TASK` (`horkd.studies.task.Task`): presets,
studies, and how an arm becomes a configuration. One line below makes it known to the queue, the
command line, the workers and the notebooks.
"""

#: The folders of the tasks; what belongs to none in particular goes with the first.
TASKS = (
    "classification",
    "faces",
    "retrieval",
)
