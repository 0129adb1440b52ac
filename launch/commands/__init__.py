"""The commands beside those of the stages. Their modules import click alone; functions import the rest."""
