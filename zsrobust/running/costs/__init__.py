"""What computing costs: of a cell or a training (model), a run (bill), a suite's tables (forecast).

All are upper bounds of passes, and seconds at the speed of the device.
"""
