package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/pcapng"
)

// captureSnap is how much of each frame a capture keeps unless asked for less.
const captureSnap = 2048

func newCaptureCmd() *cobra.Command {
	var path string
	var count, snap int
	cmd := &cobra.Command{
		Use:   "capture -w FILE.pcapng [FILTER]",
		Short: "frames as they came and as they were sent, for tcpdump and Wireshark",
		Long: `Writes each frame that the packet path sees, as it came and, if it was sent, as
it was handed to the driver, with the verdict as comment. What XDP sends
tcpdump does not see; this file has it. Frames that the driver then lost are
counted in the statistics of their interface, at the end.

` + filterHelp,
		Example: `  lvx capture -w /tmp/web.pcapng host 198.51.100.7 --count 100
  lvx capture -w - port 53 | tcpdump -nr -`,
		Args: func(_ *cobra.Command, args []string) error {
			if path == "" {
				return errors.New("no file to write to (add -w FILE.pcapng, or -w - for stdout)")
			}
			if snap < 1 || snap > captureSnap {
				return fmt.Errorf("snap %d: not 1 to %d bytes", snap, captureSnap)
			}
			_, err := lb.ParseTraceFilter(args)
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "write", "w", "", "the `file` to write, - for stdout")
	cmd.Flags().IntVar(&count, "count", 0, "end after this `number` of packets (0: at Ctrl-C)")
	cmd.Flags().IntVarP(&snap, "snap", "s", captureSnap, "`bytes` of each frame to keep")
	cmd.RunE = ask(socketFlag(cmd), func(cmd *cobra.Command, c *admin.Client, args []string) (err error) {
		out, done, err := captureFile(cmd, path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		w, err := pcapng.NewWriter(out, "lvx "+version, snap)
		if err != nil {
			return err
		}
		dropped := map[string]uint64{}
		lost := func(l director.Loss) error {
			dropped[l.Interface] += l.Frames
			return w.WriteDropped(time.Now(), l.Interface, dropped[l.Interface])
		}
		return watch(cmd, c, args, snap, count, func(p lb.TracedPacket) error { return writeTraced(w, p) }, lost)
	})
	return cmd
}

// captureFile opens a file that only its owner may read: it holds what
// clients say.
func captureFile(cmd *cobra.Command, path string) (w io.Writer, done func() error, err error) {
	if path == "-" {
		return cmd.OutOrStdout(), func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, nil, fmt.Errorf("%s is a symbolic link, which may be another's (name the file that it leads to)", path)
	}
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

func writeTraced(w *pcapng.Writer, p lb.TracedPacket) error {
	comment := p.Verdict
	if p.Service != "" {
		comment += ", service " + p.Service
	}
	if p.Real != "" {
		comment += ", real " + p.Real
	}
	comment += "\n" + strings.Join(p.Steps, "\n")
	packet := pcapng.Packet{
		Time: p.Time, Interface: p.Interface, Direction: pcapng.In,
		Data: p.FrameIn, Length: p.LengthIn, Comment: comment,
	}
	if err := w.Write(packet); err != nil || p.LengthOut == 0 {
		return err
	}
	packet.Direction, packet.Data, packet.Length, packet.Comment = pcapng.Out, p.FrameOut, p.LengthOut, "as sent: "+p.Verdict
	return w.Write(packet)
}
