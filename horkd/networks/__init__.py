"""Networks and their weights."""

from horkd.networks.network import ModelSpec as ModelSpec
from horkd.networks.network import Network as Network
from horkd.networks.network import Output as Output
from horkd.networks.network import load_network as load_network
from horkd.networks.network import save_network as save_network
