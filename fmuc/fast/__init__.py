"""The fused activation for the CPU, installed from outside; without this folder all works, slower."""
