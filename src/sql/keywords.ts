// PostgreSQL's keywords as far as they decide what a name before a parenthesis can be. From pg_get_keywords()
// of version 18. A word that is not here may be the name of a user's function.

/** Reserved words: none of them can name a table, an alias or a function. */
export const RESERVED: ReadonlySet<string> = new Set(
  words(`all analyse analyze and any array as asc asymmetric both case cast check collate column constraint create
  current_catalog current_date current_role current_time current_timestamp current_user default deferrable desc
  distinct do else end except false fetch for foreign from grant group having in initially intersect into lateral
  leading limit localtime localtimestamp not null offset on only or order placing primary references returning select
  session_user some symmetric system_user table then to trailing true union unique user using variadic when where
  window with`),
)

/**
 * Words the grammar keeps for its own calls and types (`coalesce(…)`, `numeric(10,2)`), which no user's function can
 * be called by without quotes or schema. Not among them: TREAT, which calls a function named by the type.
 */
export const SYNTAX_CALLS: ReadonlySet<string> = new Set(
  words(`between bigint bit boolean char character coalesce dec decimal exists extract float greatest grouping int integer
  interval json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar json_serialize
  json_table json_value least national nchar normalize nullif numeric overlay position precision real row smallint
  substring time timestamp trim values varchar xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces
  xmlparse xmlpi xmlroot xmlserialize xmltable`),
)

/** Words that may stand before JOIN or as an operator between two values, and so are never an alias. */
export const INFIX: ReadonlySet<string> = new Set(
  words(`authorization binary collation concurrently cross freeze full ilike inner is isnull join left like natural notnull
  outer overlaps right similar tablesample verbose`),
)

/** Keywords that stand for a value, so that an operator or a JOIN may follow them. */
const VALUE_WORDS: ReadonlySet<string> = new Set(
  words(`true false null end current_catalog current_date current_role current_time current_timestamp current_user
    localtime localtimestamp session_user system_user user`),
)

/** Words that do not end a value: LIKE or JOIN after them is the name of a function, and `-` a sign. */
export const NOT_OPERANDS: ReadonlySet<string> = new Set(
  [...RESERVED, ...words('at by escape filter key local over passing range rows value zone between')].filter(
    (word) => !VALUE_WORDS.has(word),
  ),
)

/** The words of a list written over several lines. */
export function words(list: string): string[] {
  return list.trim().split(/\s+/)
}
