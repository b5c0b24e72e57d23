package connsync

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Listed is a connection or template as /proc/net/ip_vs_conn lists it.
type Listed struct {
	Record               // without flags of forwarding and timeout, and the mark of templates alone: the list has no other
	Left   time.Duration // until it ends, in seconds
}

// procStates gives the kernel's names of states (tcp_state_name and its like);
// a template is NONE or ASSURED.
var procStates = map[string]State{
	"NONE": StateNone, "ESTABLISHED": StateEstablished, "SYN_SENT": StateSynSent, "SYN_RECV": StateSynRecv,
	"FIN_WAIT": StateFinWait, "TIME_WAIT": StateTimeWait, "CLOSE": StateClose, "CLOSE_WAIT": StateCloseWait,
	"LAST_ACK": StateLastAck, "LISTEN": StateListen, "SYNACK": StateSynAck,
	"UDP": StateNone, "ASSURED": StateAssured,
}

var procProtocols = map[string]uint8{"TCP": ProtocolTCP, "UDP": ProtocolUDP, "SCTP": ProtocolSCTP, "IP": ProtocolNone}

// ReadProc reads what /proc/net/ip_vs_conn lists on a director that runs
// kernel IPVS, its head line included (ip_vs_conn_seq_show). Lines of other
// protocols and of SCTP, whose states lvx does not know, are counted in
// skipped; a line that is none of the list's is an error that names it.
func ReadProc(r io.Reader) (listed []Listed, skipped int, err error) {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "Pro" {
			continue
		}
		l, isKnown, err := parseProc(fields)
		switch {
		case err != nil:
			return listed, skipped, fmt.Errorf("line %d: %w", n, err)
		case isKnown:
			listed = append(listed, l)
		default:
			skipped++
		}
	}
	if err := lines.Err(); err != nil {
		return listed, skipped, err
	}
	return listed, skipped, nil
}

func parseProc(fields []string) (l Listed, isKnown bool, err error) {
	const columns = 9 // then name and data of a persistence engine
	if len(fields) < columns {
		return l, false, fmt.Errorf("%d columns (at least %d, as /proc/net/ip_vs_conn has)", len(fields), columns)
	}
	for i, to := range []*netip.AddrPort{&l.Client, &l.Virtual, &l.Real} {
		addr, err := parseProcAddr(fields[1+2*i])
		if err != nil {
			return l, false, err
		}
		port, err := strconv.ParseUint(fields[2+2*i], 16, 16)
		if err != nil {
			return l, false, fmt.Errorf("port %.20q (four hexadecimal digits)", fields[2+2*i])
		}
		*to = netip.AddrPortFrom(addr, uint16(port))
	}
	left, err := strconv.ParseUint(fields[8], 10, 32)
	if err != nil {
		return l, false, fmt.Errorf("time left %.20q (seconds)", fields[8])
	}
	l.Left = time.Duration(left) * time.Second
	protocol, knownProtocol := procProtocols[fields[0]]
	state, knownState := procStates[fields[7]]
	l.Protocol, l.State = protocol, state
	if l.Client.Port() == 0 {
		l.Flags |= FlagTemplate
		l.readMark()
	}
	return l, knownProtocol && knownState && l.isKnown(), nil
}

// parseProcAddr reads an IPv4 address as eight hexadecimal digits, or an IPv6
// address as eight groups.
func parseProcAddr(s string) (netip.Addr, error) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == 4 {
		return netip.AddrFrom4([4]byte(b)), nil
	}
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("address %.50q (eight hexadecimal digits, or IPv6)", s)
	}
	return addr, nil
}
