package hostinfo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestErrorsOfDrivers(t *testing.T) {
	type counters map[string]uint64
	for driver, test := range map[string]struct {
		names  []string
		values []uint64
		want   counters
	}{
		"veth": {
			[]string{"peer_ifindex", "rx_queue_0_xdp_packets", "rx_queue_0_drops", "rx_queue_0_xdp_drops", "rx_queue_0_xdp_tx", "rx_queue_0_xdp_tx_errors", "rx_queue_1_xdp_tx_errors", "tx_queue_0_xdp_xmit_errors"},
			[]uint64{7, 100, 5, 6, 90, 3, 4, 2},
			counters{"rx_xdp_tx_errors": 7, "tx_xdp_xmit_errors": 2},
		},
		"virtio_net": {
			[]string{"rx0_packets", "rx0_drops", "rx0_xdp_packets", "rx0_xdp_tx", "rx0_xdp_redirects", "rx0_xdp_drops", "tx0_xdp_tx", "tx0_xdp_tx_drops", "tx1_xdp_tx_drops"},
			[]uint64{1, 2, 3, 4, 5, 6, 7, 8, 9},
			counters{"tx_xdp_tx_drops": 17},
		},
		"mlx5": {
			[]string{"rx_xdp_drop", "rx_xdp_tx_full", "rx_xdp_tx_err", "tx_xdp_err", "rx0_xdp_tx_full", "rx11_xdp_tx_full", "tx0_xdp_err"},
			[]uint64{1, 30, 2, 4, 10, 20, 4},
			counters{"rx_xdp_tx_full": 30, "rx_xdp_tx_err": 2, "tx_xdp_err": 4},
		},
		"ena": {
			[]string{"queue_0_rx_xdp_aborted", "queue_0_rx_xdp_drop", "queue_0_rx_xdp_invalid", "queue_3_rx_xdp_aborted"},
			[]uint64{1, 2, 3, 4},
			counters{"queue_rx_xdp_aborted": 5, "queue_rx_xdp_invalid": 3},
		},
		"none": {nil, nil, counters{}},
	} {
		if diff := cmp.Diff(map[string]uint64(test.want), sumErrors(test.names, test.values)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", driver, diff)
		}
	}
}
