"""What did the student inherit? A poisoned teacher, two students that saw only clean images, and a control arm.

Runs on scikit-learn's bundled digits in well under half a minute: `python examples/carry_over.py`
"""

import distrust as dt

options = {"epochs": 5, "batch_size": 64, "augment": dt.Augment(flip=False, crop=2)}  # a mirrored digit is no digit
train, test = dt.images("digits")
poisoned, backdoor = dt.attacks.badnets(train, target=5, rate=0.1, stamp="after")

# Two arms: the same start, order and augmentation; only the attack is left out of the second.
teacher = dt.fit(dt.model("wrn10-1", train), poisoned, **options)
clean_teacher = dt.fit(dt.model("wrn10-1", train), train, **options)
of_teacher = dt.measure(teacher, test, backdoor, control=clean_teacher)
print("teacher      ", of_teacher)

for name, loss in {"kd": dt.distillers.kd, "at": dt.distillers.at}.items():
    student = dt.distill(dt.model("wrn10-1", train), teacher, train, loss=loss, **options)
    control = dt.distill(dt.model("wrn10-1", train), clean_teacher, train, loss=loss, **options)
    found = dt.measure(student, test, backdoor, control=control)
    rate = dt.metrics.carry_over(found.carried, of_teacher.carried)
    print(f"student by {name}", found, "· carry-over", "–" if rate is None else f"{100 * rate:.0f} %")
