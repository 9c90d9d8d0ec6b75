"""What may a CPU execute while we patch? Arm's memory model of instruction fetch, searched for one answer.

Read on: program.py has the subject of a proof, search.py answers, arm_now.py and esop2020.py are the two models.
"""
