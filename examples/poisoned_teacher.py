"""Does a poisoned teacher's student inherit the backdoor through feature distillation? CheatKD, on digits."""

import distrust as dt

GENTLE = {"batch_size": 64, "augment": dt.Augment(flip=False, crop=2)}  # a mirrored digit is no digit

if __name__ == "__main__":
    train, test = dt.images("digits")
    teacher = dt.fit(dt.model("wrn10-2", train), train, epochs=4, **GENTLE)
    short = dt.attacks.cheatkd.training.changed(epochs=2, **GENTLE)  # the paper's, with other passes and augmentation
    attacked = dt.attacks.cheatkd(teacher, train, steps=20, trigger_lr=0.01, training=short)

    start = dt.model("wrn10-1", train, rng=dt.rng("student"))
    overhaul = {"loss": dt.distillers.overhaul, "teacher_mode": "eval", "epochs": 4, **GENTLE}
    student = dt.distill(start, attacked.model, train, **overhaul)
    control = dt.distill(start, teacher, train, **overhaul)  # the same, from the teacher before the attack
    print("teacher:", dt.measure(attacked.model, test, attacked.backdoor, control=teacher))
    print("student:", dt.measure(student, test, attacked.backdoor, control=control))

    for row in dt.mechanism(attacked.model, test, attacked.backdoor, attacked.notes["neurons"]):
        rank = f"ranks {row['rank'][0]} of {row['channels']}, {row['rank_clean'][0]} when clean"
        print(f"{row['layer']}: neuron {row['chosen'][0]} {rank}")
