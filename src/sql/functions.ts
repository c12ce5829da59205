// What PostgreSQL's own functions do to the server and to the session, by name. The lists follow pg_proc of
// version 18: a name is a read only when every overload is STABLE or IMMUTABLE; operator implementations, type
// input and output and index support are left out, nobody calls them by name. Volatility alone is not enough
// (`txid_current` is STABLE and fails on a standby, `pg_walfile_name` even IMMUTABLE), so the names that look
// like reads and must not travel stand below with the reason. A name in no list may do anything at all.

import type { Facts } from '../core/types.ts'
import { words } from './keywords.ts'

/** What calling a function may mean for where the statement runs and what it leaves behind. */
export interface Effect {
  readonly because: string
  /** May run on a standby with the same answer, any number of times. */
  readonly anywhere: boolean
  /** Changes data, or makes the server do something that is not undone. */
  readonly writes: boolean
  /** Leaves something behind in the session. */
  readonly stateful: boolean
  /** May wait for a lock. */
  readonly waits: boolean
}

const aggregates = words(`
  any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or count every max min mode string_agg sum xmlagg
  corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
  regr_syy stddev stddev_pop stddev_samp var_pop var_samp variance percentile_cont percentile_disc
  json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique
  json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict
  jsonb_object_agg_unique jsonb_object_agg_unique_strict range_agg range_intersect_agg
`)

const windows = words(`
  cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
`)

const mathematics = words(`
  abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh cbrt ceil ceiling cos cosd cosh cot cotd
  degrees div erf erfc exp factorial floor gamma gcd lcm lgamma ln log log10 min_scale mod pi pow power radians
  round scale sign sin sind sinh sqrt tan tand tanh trim_scale trunc width_bucket bit_count get_bit set_bit
`)

const text = words(`
  ascii bit_length btrim casefold char_length character_length chr concat concat_ws format initcap is_normalized
  left length like like_escape lower lpad ltrim normalize notlike num_nonnulls num_nulls octet_length overlay
  parse_ident position quote_ident quote_literal quote_nullable regexp_count regexp_instr regexp_like regexp_match
  regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr repeat replace reverse
  right rpad rtrim similar_escape similar_to_escape split_part starts_with string_to_array string_to_table strpos
  substr substring textcat to_ascii to_bin to_hex to_number to_oct translate unicode_assigned unistr upper
`)

const bytes = words(`
  convert convert_from convert_to crc32 crc32c decode encode get_byte md5 set_byte sha224 sha256 sha384 sha512
  hash_array hash_array_extended hash_record hash_record_extended hashtext hashtextextended
  uuid_extract_timestamp uuid_extract_version
`)

const time = words(`
  age date_add date_bin date_part date_subtract date_trunc extract isfinite justify_days justify_hours
  justify_interval make_date make_interval make_time make_timestamp make_timestamptz now overlaps
  statement_timestamp timezone to_char to_date to_timestamp transaction_timestamp
`)

const json = words(`
  array_to_json json_array_elements json_array_elements_text json_array_length json_build_array json_build_object
  json_each json_each_text json_extract_path json_extract_path_text json_object json_object_keys
  json_populate_record json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_to_tsvector
  json_typeof row_to_json to_json to_jsonb
  jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object
  jsonb_concat jsonb_contained jsonb_contains jsonb_delete jsonb_delete_path jsonb_each jsonb_each_text
  jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path jsonb_extract_path_text jsonb_insert
  jsonb_object jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz
  jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first
  jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_record_valid
  jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record
  jsonb_to_recordset jsonb_to_tsvector jsonb_typeof
`)

const arraysAndRanges = words(`
  array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions
  array_prepend array_remove array_replace array_reverse array_sort array_to_string array_upper cardinality
  enum_first enum_last enum_range generate_series generate_subscripts trim_array unnest
  datemultirange daterange int4multirange int4range int8multirange int8range multirange nummultirange numrange
  tsmultirange tsrange tstzmultirange tstzrange isempty lower_inc lower_inf range_adjacent range_contained_by
  range_contains range_intersect range_merge range_minus range_overlaps range_union upper_inc upper_inf
`)

const textSearch = words(`
  array_to_tsvector get_current_ts_config numnode phraseto_tsquery plainto_tsquery querytree setweight strip
  to_tsquery to_tsvector ts_debug ts_delete ts_filter ts_headline ts_lexize ts_parse ts_rank ts_rank_cd
  ts_token_type tsquery_phrase tsvector_to_array websearch_to_tsquery
`)

const geometryAndNetwork = words(`
  area bound_box box center circle diagonal diameter height isclosed ishorizontal isopen isparallel isperp
  isvertical line lseg npoints path pclose point polygon popen radius slope width
  abbrev broadcast family host hostmask inet_merge inet_same_family macaddr8_set7bit masklen netmask network
  set_masklen
`)

const xml = words(`
  xml_is_well_formed xml_is_well_formed_content xml_is_well_formed_document xmlcomment xmlexists xmltext xpath
  xpath_exists
`)

const typesAsFunctions = words(`
  bit bool bpchar bytea char cidr date float4 float8 int2 int4 int8 interval macaddr macaddr8 money name numeric
  oid pg_lsn text time timestamp timestamptz timetz varbit varchar xid xml
`)

const aboutValuesAndCaller = words(`
  acldefault aclexplode cash_words makeaclitem pg_char_to_encoding pg_split_walfile_name unicode_version
  current_database current_schema current_schemas current_user getdatabaseencoding pg_client_encoding
  pg_collation_for pg_column_compression pg_column_size pg_encoding_max_length pg_input_error_info
  pg_input_is_valid pg_size_bytes pg_size_pretty pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin pg_typeof
  pg_visible_in_snapshot pg_wal_lsn_diff session_user txid_snapshot_xip txid_snapshot_xmax txid_snapshot_xmin
  txid_visible_in_snapshot
`)

/** Names that compute many rows into one; a statement with one is no longer simple. */
export const AGGREGATES: ReadonlySet<string> = new Set(aggregates)

/** Built-in functions whose every overload is STABLE or IMMUTABLE and whose answer is the same on a standby. */
export const READ_FUNCTIONS: ReadonlySet<string> = new Set([
  ...aggregates,
  ...windows,
  ...mathematics,
  ...text,
  ...bytes,
  ...time,
  ...json,
  ...arraysAndRanges,
  ...textSearch,
  ...geometryAndNetwork,
  ...xml,
  ...typesAsFunctions,
  ...aboutValuesAndCaller,
])

/** VOLATILE, yet they change nothing and a standby answers them as well as the primary. */
export const HARMLESS_VOLATILE_FUNCTIONS: ReadonlySet<string> = new Set(
  words(`
  array_sample array_shuffle clock_timestamp gen_random_uuid pg_sleep pg_sleep_for pg_sleep_until random
  random_normal timeofday uuidv4 uuidv7
`),
)

const ANYWHERE: Effect = { because: 'read', anywhere: true, writes: false, stateful: false, waits: false }
const STAYS: Effect = { because: '', anywhere: false, writes: false, stateful: false, waits: false }

/** Everything that is in no list: it may write, wait, and change the session. */
export const UNKNOWN_EFFECT: Effect = {
  because: 'unknown function',
  anywhere: false,
  writes: true,
  stateful: true,
  waits: true,
}

// The deny list: what is known, and why it stays on the primary.
const STAYING: readonly (readonly [effect: Effect, names: readonly string[]])[] = [
  [
    { ...STAYS, because: 'each server answers for itself' },
    words(`
      current_query current_setting icu_unicode_version inet_client_addr inet_client_port inet_server_addr inet_server_port
      mxid_age pg_available_extension_versions pg_available_extensions pg_config pg_cursor pg_extension_update_paths
      pg_get_sequence_data pg_prepared_statement pg_prepared_xact pg_replication_origin_oid pg_sequence_last_value
      pg_settings_get_flags pg_tablespace_databases pg_tablespace_location pg_timezone_abbrevs_abbrevs
      pg_timezone_abbrevs_zone pg_timezone_names
      pg_backend_pid pg_blocking_pids pg_conf_load_time pg_control_checkpoint pg_control_init pg_control_recovery
      pg_control_system pg_current_logfile pg_current_snapshot pg_current_wal_flush_lsn pg_current_wal_insert_lsn
      pg_current_wal_lsn pg_current_xact_id_if_assigned pg_database_size pg_get_replication_slots
      pg_get_wal_replay_pause_state pg_indexes_size pg_is_in_recovery pg_is_other_temp_schema
      pg_is_wal_replay_paused pg_last_committed_xact pg_last_wal_receive_lsn pg_last_wal_replay_lsn
      pg_last_xact_replay_timestamp pg_listening_channels pg_lock_status pg_my_temp_schema pg_postmaster_start_time
      pg_relation_size pg_safe_snapshot_blocking_pids pg_show_all_settings pg_table_size pg_tablespace_size
      pg_total_relation_size pg_trigger_depth pg_walfile_name pg_walfile_name_offset pg_xact_commit_timestamp
      pg_xact_status txid_current_if_assigned txid_current_snapshot txid_status version
    `),
  ],
  [
    // Migrations and introspection ask these right after DDL, and the tables behind them are named by a value.
    { ...STAYS, because: 'reads the system catalog' },
    words(`
      col_description format_type has_any_column_privilege has_column_privilege has_database_privilege
      has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege has_largeobject_privilege
      has_parameter_privilege has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege
      has_tablespace_privilege has_type_privilege obj_description pg_basetype pg_collation_is_visible
      pg_column_is_updatable pg_get_catalog_foreign_keys pg_get_function_sqlbody pg_get_publication_tables
      pg_get_replica_identity_index pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions
      pg_index_column_has_property pg_index_has_property pg_indexam_has_property pg_relation_is_publishable pg_conversion_is_visible
      pg_describe_object pg_encoding_to_char pg_filenode_relation pg_function_is_visible pg_get_acl
      pg_get_constraintdef pg_get_expr pg_get_function_arg_default pg_get_function_arguments
      pg_get_function_identity_arguments pg_get_function_result pg_get_functiondef pg_get_indexdef pg_get_keywords
      pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence
      pg_get_statisticsobjdef pg_get_triggerdef pg_get_userbyid pg_get_viewdef pg_has_role pg_identify_object
      pg_identify_object_as_address pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible
      pg_partition_ancestors pg_partition_root pg_partition_tree pg_relation_filenode pg_relation_filepath
      pg_relation_is_updatable pg_sequence_parameters pg_statistics_obj_is_visible pg_table_is_visible
      pg_ts_config_is_visible pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible
      pg_type_is_visible regclass row_security_active shobj_description to_regclass to_regcollation
      to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_regtypemod
    `),
  ],
  [
    { ...STAYS, because: 'reads tables named by a value' },
    words(`
      database_to_xml database_to_xml_and_xmlschema database_to_xmlschema schema_to_xml schema_to_xml_and_xmlschema
      schema_to_xmlschema table_to_xml table_to_xml_and_xmlschema table_to_xmlschema
    `),
  ],
  [{ ...STAYS, because: 'sequence', writes: true }, words('currval lastval nextval setval')],
  [{ ...STAYS, because: 'assigns a transaction id', writes: true }, words('pg_current_xact_id txid_current')],
  [{ ...STAYS, because: 'notifies', writes: true }, words('pg_logical_emit_message pg_notify')],
  [
    { ...STAYS, because: 'large object', writes: true, waits: true },
    words(`
      lo_close lo_creat lo_create lo_export lo_from_bytea lo_get lo_import lo_lseek lo_lseek64 lo_open lo_put
      lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink loread lowrite
    `),
  ],
  [
    // A standby would do these too, to itself.
    { ...STAYS, because: 'acts on the server', writes: true, waits: true },
    words(`
      pg_cancel_backend pg_create_restore_point pg_drop_replication_slot pg_log_backend_memory_contexts
      pg_log_standby_snapshot pg_logical_slot_get_binary_changes pg_logical_slot_get_changes
      pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes pg_promote pg_reload_conf
      pg_replication_slot_advance pg_rotate_logfile pg_stat_force_next_flush pg_stat_reset
      pg_stat_reset_backend_stats pg_stat_reset_replication_slot pg_stat_reset_shared
      pg_stat_reset_single_function_counters pg_stat_reset_single_table_counters pg_stat_reset_slru
      pg_stat_reset_subscription_stats pg_switch_wal pg_terminate_backend pg_wal_replay_pause
      pg_wal_replay_resume
    `),
  ],
  [
    // A temporary slot lives as long as the session that made it.
    { ...STAYS, because: 'makes a replication slot', writes: true, stateful: true, waits: true },
    words(`
      pg_copy_logical_replication_slot pg_copy_physical_replication_slot pg_create_logical_replication_slot
      pg_create_physical_replication_slot
    `),
  ],
  [
    // Each server has its own lock space: a lock taken on a standby excludes nobody.
    { ...STAYS, because: 'advisory lock until the transaction ends', waits: true },
    words(`
      pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    `),
  ],
  [
    { ...STAYS, because: 'advisory lock kept by the session', stateful: true, waits: true },
    words(`
      pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared
      pg_try_advisory_lock pg_try_advisory_lock_shared
    `),
  ],
  [{ ...STAYS, because: 'changes the session', stateful: true }, words('pg_export_snapshot set_config setseed')],
]

/** The names that are known and stay on the primary, with what they do. */
export const STAYING_FUNCTIONS: ReadonlyMap<string, Effect> = new Map(
  STAYING.flatMap(([effect, names]) => names.map((name) => [name, effect] as const)),
)

/**
 * Of those, the ones with a single argument: `(0.5).setseed` calls setseed. No column is likely to have such a name, and
 * what begins with pg_ is no plain name anyway. What users have written may be called so, too: only the server knows.
 */
export const CALLED_BY_DOT: ReadonlySet<string> = new Set(
  words('currval lo_close lo_creat lo_create lo_get lo_import lo_tell lo_tell64 lo_unlink nextval setseed'),
)

/** What only the end of the session undoes: DISCARD ALL leaves it as it is. */
const OUTLIVING_RESET: ReadonlySet<string> = new Set(
  words(`
    dblink_connect dblink_connect_u pg_backup_start pg_copy_logical_replication_slot pg_copy_physical_replication_slot
    pg_create_logical_replication_slot pg_create_physical_replication_slot pg_replication_origin_session_setup
    pg_start_backup setseed
  `),
)

/** Whether it may leave something in its session that no reset takes away. */
export function outlivesReset({ verb, functions }: Pick<Facts, 'verb' | 'functions'>): boolean {
  if (verb === 'load') return true
  return functions.some((name) => OUTLIVING_RESET.has(name.slice(name.lastIndexOf('.') + 1)))
}

/** `name` is folded as the server folds it; with a schema other than pg_catalog it is unknown. */
export function effectOf(name: string): Effect {
  const bare = name.startsWith('pg_catalog.') ? name.slice('pg_catalog.'.length) : name
  if (READ_FUNCTIONS.has(bare) || HARMLESS_VOLATILE_FUNCTIONS.has(bare)) return ANYWHERE
  // Everything about activity and statistics is named alike, and is the asked server's own.
  if (bare.startsWith('pg_stat_get_')) return SERVER_STATISTICS
  return STAYING_FUNCTIONS.get(bare) ?? UNKNOWN_EFFECT
}

const SERVER_STATISTICS: Effect = { ...STAYS, because: 'each server answers for itself' }
