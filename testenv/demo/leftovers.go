package demo

import (
	"context"
	"os"
	"strings"

	"github.com/lvx-lb/lvx/testenv"
)

// leftovers names what a director that has ended still has of lvx: an XDP
// program, pins, VIPs. "nothing" is the right answer.
func leftovers(ctx context.Context, h *testenv.Host) (string, error) {
	var left []string
	link, err := h.Run(ctx, "ip", "-details", "link", "show", "dev", "eth0")
	if err != nil {
		return "", err
	}
	if strings.Contains(link, "xdp") {
		left = append(left, "an XDP program")
	}
	addr, err := h.Run(ctx, "ip", "addr", "show")
	if err != nil {
		return "", err
	}
	for _, a := range []string{vip, vip6} {
		if strings.Contains(addr, " "+a+"/") {
			left = append(left, "VIP "+a)
		}
	}
	if _, err := os.Stat(h.PinDir()); err == nil {
		left = append(left, "pins in "+h.PinDir())
	}
	if len(left) == 0 {
		return "nothing", nil
	}
	return strings.Join(left, ", "), nil
}
