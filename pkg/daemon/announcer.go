package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/lvx-lb/lvx/pkg/bgp"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/guard"
)

// announcer has routes announced. A [bgp.Speaker] does it, a [bgp.Hook] tells
// who does.
type announcer interface {
	Start(ctx context.Context) error
	Set(routes []bgp.Route) error
	Settle(ctx context.Context) // waits until what was set has been said
	Status(ctx context.Context) (bgp.Status, error)
	Stop()
}

func newAnnouncer(cfg *config.Config, log *slog.Logger) (announcer, error) {
	if h := cfg.BGP.Hook; cfg.BGP.Engine == config.BGPByHook {
		o := bgp.HookOptions{File: h.File}
		if len(h.Exec) > 0 {
			o.Exec = h.Exec[0]
			o.Run = func(ctx context.Context, routes string) error { return runHook(ctx, h.Exec, routes) }
		}
		return bgp.NewHook(o), nil
	}
	c, err := speakerConfig(cfg)
	if err != nil {
		return nil, err
	}
	return bgp.NewSpeaker(c, log), nil
}

// runHook runs the program that has routes announced.
func runHook(ctx context.Context, argv []string, routes string) error {
	out, err := guard.Program{Argv: argv, Input: routes}.Run(ctx)
	if err != nil && out != "" {
		return fmt.Errorf("%w: %s", err, guard.Text(out))
	}
	return err
}

func speakerConfig(cfg *config.Config) (bgp.Config, error) {
	b := cfg.BGP
	c := bgp.Config{
		ASN: b.ASN, RouterID: b.RouterID, MED: b.MED, LocalPref: b.LocalPref,
		Communities: b.Communities, GracefulRestart: b.GracefulRestart,
	}
	if !c.RouterID.IsValid() {
		var err error
		if c.RouterID, err = firstIPv4(cfg.Interfaces[0]); err != nil {
			return c, err
		}
	}
	for _, p := range b.Peers {
		peer := bgp.Peer{
			Address: p.Address, ASN: p.ASN, HoldTime: p.HoldTime, Multihop: p.Multihop, GTSM: p.GTSM,
			BFD: bgp.BFD{Interval: p.BFDInterval, Multiplier: p.BFDMissing},
		}
		if p.PasswordFile != "" {
			secret, err := readPassword(p.PasswordFile)
			if err != nil {
				return c, fmt.Errorf("peer %s: %w", p.Address, err)
			}
			peer.Password = secret
		}
		c.Peers = append(c.Peers, peer)
	}
	return c, nil
}

// firstIPv4 is the router identifier of a director that has not been given one.
func firstIPv4(name string) (netip.Addr, error) {
	addrs, err := addressesOf(name)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if a.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no IPv4 address for the router identifier (set router_id)", name)
}

// readPassword reads a file that holds a password and nothing else.
func readPassword(path string) (string, error) {
	const longest = 80 // TCP_MD5SIG_MAXKEYLEN
	b, err := guard.ReadSecret(path, longest+int64(len("\r\n")))
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if secret == "" || len(secret) > longest {
		return "", fmt.Errorf("password file %s holds %d characters (1 to %d)", path, len(secret), longest)
	}
	return secret, nil
}
