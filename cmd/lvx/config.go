package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/daemon"
	"github.com/lvx-lb/lvx/pkg/hostinfo"
)

func newConfigCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "a configuration file to begin with",
		Example: "  lvx config init",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigInitCmd())
	return cmd
}

func newConfigInitCmd() *cobra.Command {
	var iface, output string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "write a commented configuration for this host",
		Long: `Writes a small configuration for this host, with its interface filled in and
comments on what to change: to stdout, or with -o into a file, which is not
replaced if it is there.`,
		Example: `  lvx config init
  lvx config init -o /etc/lvx/lvx.yaml
  lvx config init --interface eth1`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if iface == "" {
				var err error
				if iface, err = hostinfo.MainInterface(); err != nil {
					return err
				}
			}
			h := hostinfo.Examine([]string{iface})
			text, err := firstConfig(h)
			if err != nil || output == "" {
				_, werr := io.WriteString(cmd.OutOrStdout(), text)
				return errors.Join(err, werr)
			}
			if err := writeNew(output, text); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s written: set VIP and reals, then lvx check -c %s\n", output, output)
			return nil
		},
	}
	cmd.Flags().StringVar(&iface, "interface", "", "the VIPs' `interface` (default: that of the default route)")
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to write")
	return cmd
}

// writeNew makes a file that only root can read: passwords go there.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// firstConfig is a configuration for a host of which one interface was looked
// at.
func firstConfig(h hostinfo.Host) (string, error) {
	i := h.Interfaces[0]
	if i.Err != nil {
		return "", fmt.Errorf("interface %s: no such interface (see ip link)", i.Name)
	}
	network := netip.MustParsePrefix("192.0.2.0/24") // for documentation: RFC 5737
	about := i.String()
	if n, ok := hostinfo.Network(i.Name); ok {
		network, about = n, n.String()+", "+about
	}
	host := func(n int) string {
		a := network.Masked().Addr()
		for range n {
			a = a.Next()
		}
		return a.String()
	}
	mode, _ := daemon.XDPMode(&config.Config{XDPMode: config.XDPAuto}, i)
	text := strings.NewReplacer(
		"<IFACE>", i.Name, "<ABOUT>", about, "<MODE>", mode,
		"<VIP>", host(100), "<REAL1>", host(12), "<REAL2>", host(13),
	).Replace(firstText)
	_, err := config.Parse("lvx config init", []byte(text))
	return text, err
}

const firstText = `# A configuration of lvx to begin with. Every key is in the reference,
# docs/configuration.md. Check it with: lvx check -c FILE

# The segment of the VIPs: <ABOUT>.
# The packet path would be attached in <MODE> mode.
interface: <IFACE>

services:
  - name: web
    # The VIP. It must be an address that no host has; lvx puts it on the
    # interface. Or VIP:443/tcp as well, in one service; or VIP alone: every
    # port, each client at one real server.
    listen: ["<VIP>:80/tcp"]
    scheduler: wlc                # rr wrr sh dh mh lc wlc sed nq
    # On every real server: lvx real up --vip <VIP>
    reals:
      - {address: <REAL1>, weight: 1}
      - {address: <REAL2>, weight: 1}
    # A real server that fails this gets no new connections.
    check: {type: tcp, interval: 6s, timeout: 3s, fall: 3, rise: 2}
    # sorry_server: 127.0.0.1     # answers when no real server can

# Two directors: the same file on both, another priority on the second. The VIP
# is then VRRP's.
# vrrp:
#   - name: VI_1
#     interface: <IFACE>
#     virtual_router_id: 51
#     priority: 100
#     addresses: [<VIP>/32]

# Who hears of changes.
# notify: {smtp: {server: "127.0.0.1:25", from: lvx@localhost, to: [root@localhost]}}

# Metrics and the status page.
# admin: {listen: "127.0.0.1:9100"}
`
