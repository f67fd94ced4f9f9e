"""What analyses share: clips heard and mixed, labels, linear probes, records.

Every analysis takes ``backbones``, names as `distill.backbones.find.load` reads them; ``corpus``, a
manifest or folder; ``output``, the folder of its record, tables and plots, made where it is
missing; and ``work``, how it is done (`benchmarks.analysis.parts.work.Work`).
"""
