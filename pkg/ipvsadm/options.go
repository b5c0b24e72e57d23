package ipvsadm

import "github.com/lvx-lb/lvx/pkg/lb"

// option is an option that the table of legal options knows, by its column.
type option uint8

const (
	optNumeric option = iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optMcast
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optSchedFlags
	optMcastGroup
	optMcastPort
	optMcastTTL
	optSyncMaxLen
	optTunInfo
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
	numOptions
)

// String is the name that ipvsadm's errors use.
func (o option) String() string {
	return [numOptions]string{
		"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server",
		"forwarding-method", "weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon", "stats",
		"rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags",
		"mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum",
		"tun-csum", "tun-remcsum",
	}[o]
}

// legal is ipvsadm's commands_v_options: a row for each [Op], a column for
// each option; '+' is required, 'x' illegal, ' ' optional, and of those with
// '1' only one may be there.
var legal = [...]string{
	AddService:    "xx+   xxxxxxxxxxxxxxx   xxxxxxxxxx",
	EditService:   "xx+   xxxxxxxxxxxxxxx   xxxxxxxxxx",
	DeleteService: "xx+xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	Flush:         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	List:          " 11xxxxxxxxx11       xxxxxxx xxxxx",
	AddServer:     "xx+xxx+    xxxxxxxxxxxxxxxxxx     ",
	DeleteServer:  "xx+xxx+xxxxxxxxxxxxxxxxxxxxxxxxxxx",
	EditServer:    "xx+xxx+    xxxxxxxxxxxxxxxxxx     ",
	SetTimeouts:   "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	StartDaemon:   "xxxxxxxxxxx xxxxxxx xxxx    xxxxxx",
	StopDaemon:    "xxxxxxxxxxxxxxxxxxx xxxxxxxxxxxxxx",
	Restore:       "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	Save:          " xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	Zero:          "xx xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
}

// legalTunnel is the same for the types of tunnels and the options from
// tun-port on.
var legalTunnel = [...]string{lb.IPIP: "xxxx", lb.GUE: "+111", lb.GRE: "x11x"}

// value says whether an option has a value.
type value uint8

const (
	noValue value = iota
	hasValue
	mayHaveValue // unless the next word begins with "-"
)

// spec is an option as it is typed.
type spec struct {
	long  string
	short byte // 0 if there is none
	value value
	// What it does: a command, or a step of the parser. Help and version are
	// neither.
	command Op
	is      kind
	set     func(p *parser, value string, given bool) *Failure
}

// kind tells commands from the rest: ipvsadm wants a command first.
type kind uint8

const (
	isOption kind = iota
	isCommand
	isHelp
	isVersion
)

// specs are all options of ipvsadm 1.31.
var specs = []spec{
	{long: "add-service", short: 'A', is: isCommand, command: AddService},
	{long: "edit-service", short: 'E', is: isCommand, command: EditService},
	{long: "delete-service", short: 'D', is: isCommand, command: DeleteService},
	{long: "clear", short: 'C', is: isCommand, command: Flush},
	{long: "list", short: 'L', is: isCommand, command: List},
	{long: "list", short: 'l', is: isCommand, command: List},
	{long: "zero", short: 'Z', is: isCommand, command: Zero},
	{long: "add-server", short: 'a', is: isCommand, command: AddServer},
	{long: "edit-server", short: 'e', is: isCommand, command: EditServer},
	{long: "delete-server", short: 'd', is: isCommand, command: DeleteServer},
	{long: "set", is: isCommand, command: SetTimeouts},
	{long: "help", short: 'h', is: isHelp},
	{long: "version", short: 'v', is: isVersion},
	{long: "restore", short: 'R', is: isCommand, command: Restore},
	{long: "save", short: 'S', is: isCommand, command: Save},
	{long: "start-daemon", is: isCommand, command: StartDaemon, value: hasValue},
	{long: "stop-daemon", is: isCommand, command: StopDaemon, value: hasValue},

	{long: "tcp-service", short: 't', value: hasValue, set: setTCP},
	{long: "udp-service", short: 'u', value: hasValue, set: setUDP},
	{long: "sctp-service", value: hasValue, set: setSCTP},
	{long: "fwmark-service", short: 'f', value: hasValue, set: setMark},
	{long: "scheduler", short: 's', value: hasValue, set: setScheduler},
	{long: "persistent", short: 'p', value: mayHaveValue, set: setPersistent},
	{long: "netmask", short: 'M', value: hasValue, set: setNetmask},
	{long: "real-server", short: 'r', value: hasValue, set: setServer},
	{long: "masquerading", short: 'm', set: setMasquerading},
	{long: "ipip", short: 'i', set: setTunneling},
	{long: "gatewaying", short: 'g', set: setGatewaying},
	{long: "weight", short: 'w', value: hasValue, set: setWeight},
	{long: "u-threshold", short: 'x', value: hasValue, set: setUpper},
	{long: "l-threshold", short: 'y', value: hasValue, set: setLower},
	{long: "numeric", short: 'n', set: setNumeric},
	{long: "connection", short: 'c', set: setConnection},
	{long: "mcast-interface", value: hasValue, set: setMcastInterface},
	{long: "syncid", value: hasValue, set: setSyncID},
	{long: "timeout", set: setTimeout},
	{long: "daemon", set: setDaemon},
	{long: "stats", set: setStats},
	{long: "rate", set: setRate},
	{long: "thresholds", set: setThresholds},
	{long: "persistent-conn", set: setPersistentConn},
	{long: "tun-info", set: setTunInfo},
	{long: "nosort", set: setNoSort},
	{long: "sort", set: func(*parser, string, bool) *Failure { return nil }},
	{long: "exact", short: 'X', set: setExact},
	{long: "ipv6", short: '6', set: setIPv6},
	{long: "ops", short: 'o', set: setOnePacket},
	{long: "pe", value: hasValue, set: setEngine},
	{long: "sched-flags", short: 'b', value: hasValue, set: setSchedFlags},
	{long: "mcast-group", value: hasValue, set: setMcastGroup},
	{long: "mcast-port", value: hasValue, set: setMcastPort},
	{long: "mcast-ttl", value: hasValue, set: setMcastTTL},
	{long: "sync-maxlen", value: hasValue, set: setSyncMaxLen},
	{long: "tun-type", value: hasValue, set: setTunType},
	{long: "tun-port", value: hasValue, set: setTunPort},
	{long: "tun-nocsum", set: setTunNoCsum},
	{long: "tun-csum", set: setTunCsum},
	{long: "tun-remcsum", set: setTunRemCsum},
}
